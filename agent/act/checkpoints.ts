/** Suspend and resume of one pod's engine, asked of its launcher and answered by it. */
import type { CheckpointAnswer, CheckpointWord } from '../decide/checkpoint-word.ts';
import { checkpointMsMax } from '../decide/engine-times.ts';
import type { LauncherMessage } from '../decide/launcher-line.ts';

export interface Checkpoints {
  /** What the launcher's lines say; `gone` when it is. */
  heard(word: CheckpointWord): void;
  suspend(): Promise<CheckpointAnswer>;
  resume(): Promise<CheckpointAnswer>;
  /** Its CUDA state is, or may be, in a checkpoint: nothing that needs its GPU would be answered. */
  mayBeSuspended(): boolean;
  close(): void;
}

interface Call {
  id: number;
  answered(answer: CheckpointAnswer): void;
}

const failed = (reason: string, message: string): CheckpointAnswer => ({
  outcome: 'failed',
  reason,
  message,
});

/** @param send to the launcher; false when none is there */
export function createCheckpoints(send: (message: LauncherMessage) => boolean): Checkpoints {
  let suspends = false;
  let suspended = false;
  let calls = 0;
  let call: Call | null = null;

  const end = (answer: CheckpointAnswer): void => {
    const ended = call;
    call = null;
    ended?.answered(answer);
  };

  function ask(operation: 'suspend' | 'resume'): Promise<CheckpointAnswer> {
    if (call) return Promise.resolve(failed('NotNow', 'an earlier suspend or resume was not answered yet'));
    return new Promise((resolve) => {
      const id = ++calls;
      const timer = setTimeout(
        () => end(failed('LauncherSilent', `no answer to ${operation} within ${checkpointMsMax} ms`)),
        checkpointMsMax,
      );
      call = {
        id,
        answered(answer) {
          clearTimeout(timer);
          resolve(answer);
        },
      };
      if (!send({ type: operation, call: id })) end(failed('NoLauncher', 'its launcher is not connected'));
      // Until the opposite is heard, also of a call that nobody answers.
      else if (operation === 'suspend') suspended = true;
    });
  }

  function heardAnswer(word: Extract<CheckpointWord, { type: 'answered' }>): void {
    const { operation, outcome, reason, message } = word;
    if (outcome === 'done') suspended = operation === 'suspend';
    else if (operation === 'suspend' && reason !== 'NotNow') suspended = false;
    if (word.call === call?.id) end({ outcome, reason, message });
  }

  return {
    heard(word) {
      switch (word.type) {
        case 'came':
          ({ suspends, suspended } = word);
          return end(failed('LauncherGone', 'its launcher came anew meanwhile'));
        case 'new-engine':
          suspended = false;
          return end(failed('EngineEnded', 'its engine ended meanwhile'));
        case 'answered':
          return heardAnswer(word);
        case 'gone':
          return end(failed('LauncherGone', 'its launcher went away meanwhile'));
        default: {
          const never: never = word;
          throw new Error(`no such word: ${never}`);
        }
      }
    },
    suspend() {
      if (suspends) return ask('suspend');
      return Promise.resolve({
        outcome: 'not-offered',
        reason: 'LauncherTooOld',
        message: 'its launcher does not know it yet; it is offered when the pod is replaced',
      });
    },
    resume: () => ask('resume'),
    mayBeSuspended: () => suspended,
    close: () => end(failed('LauncherGone', 'the agent ends')),
  };
}
