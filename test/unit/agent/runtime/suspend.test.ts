/** sleep.level suspend: level 1, then a checkpoint by the launcher; back the other way; and what is said where it is not offered. */
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { createCarrier } from '../../../../agent/act/carry-out.ts';
import { createCheckpoints } from '../../../../agent/act/checkpoints.ts';
import type { Engine, Outcome } from '../../../../agent/act/engine.ts';
import { suspendable } from '../../../../agent/act/suspend.ts';
import { readCheckpointWord } from '../../../../agent/decide/checkpoint-word.ts';
import { createLauncherLink } from '../../../../agent/observe/launcher-link.ts';
import { ask, dialGrant } from './link-clients.ts';
import { afterwards, cleanUp, folder, keptLog, podUid, until } from './until.ts';

afterEach(async () => {
  vi.useRealTimers();
  await cleanUp();
});

const uid = podUid(1);
const weights = 16e9;
const holding = { ...ask(uid), type: 'holding', id: 'g', pid: 7, ready: true };
type Sent = { type: string; call: number };

/** Checkpoints of a launcher that is there, and an engine that does what it is told. */
function pod({ suspends = true, connected = true, slept = { ok: true, message: '' } as Outcome } = {}) {
  const sent: Sent[] = [];
  const did: string[] = [];
  const checkpoints = createCheckpoints((message) => {
    if (connected) sent.push(message as Sent);
    return connected;
  });
  const say = (line: object): void => {
    const word = readCheckpointWord(JSON.stringify({ v: 1, ...line }));
    if (word) checkpoints.heard(word);
  };
  say({ ...holding, suspends });
  const engine = {
    sleep: async (level: number) => {
      did.push(`sleep ${level}`);
      return slept;
    },
    wake: async (_bytes: number | null, onSent: () => void) => {
      did.push('wake');
      onSent();
      return { ok: true, message: '' };
    },
    close: () => did.push('close'),
  } as unknown as Engine;
  const answer = (outcome: string, given: object = {}): void => {
    const { type, call } = sent.at(-1)!;
    say({ type: 'checkpointed', call, operation: type, outcome, reason: 'R', message: 'm', ...given });
  };
  return { sent, did, say, answer, checkpoints, engine: suspendable(engine, checkpoints) };
}

/** Sent to the launcher, then answered. */
async function suspended(one: ReturnType<typeof pod>, outcome = 'done', given: object = {}) {
  const before = one.sent.length;
  const done = one.engine.suspend(weights);
  await until('the word to the launcher', () => one.sent.length > before);
  one.answer(outcome, given);
  return done;
}

describe('a suspend', () => {
  it('is level 1 and then a checkpoint; the wake restores before anything else', async () => {
    const one = pod();
    expect(await suspended(one)).toEqual({ ok: true, message: '', suspended: true });
    expect(one.did).toEqual(['sleep 1']);
    const onSent = vi.fn();
    const woken = one.engine.wake(weights, onSent);
    expect(onSent).toHaveBeenCalledTimes(1);
    expect(one.did).toEqual(['sleep 1']);
    one.answer('done');
    expect(await woken).toEqual({ ok: true, message: '' });
    expect(one.did).toEqual(['sleep 1', 'wake']);
    expect(onSent).toHaveBeenCalledTimes(1);
    expect(one.sent.map(({ type }) => type)).toEqual(['suspend', 'resume']);
    await one.engine.wake(weights, () => {});
    expect(one.sent).toHaveLength(2);
  });

  it('of an engine that does not fall asleep asks for no checkpoint', async () => {
    const one = pod({ slept: { ok: false, message: 'answered 500' } });
    expect(await one.engine.suspend(weights)).toEqual({
      ok: false,
      message: 'answered 500',
      suspended: false,
    });
    expect(one.sent).toEqual([]);
  });

  it.each([
    ['not-offered', 'SuspendNotOffered', /not offered here, it sleeps as with sleep.level offload: m \(R\)/],
    ['failed', 'SuspendFailed', /failed, it sleeps as with sleep.level offload: m \(R\)/],
    ['an outcome of a later release', 'SuspendFailed', /failed/],
  ])(
    'that is %s sleeps at level 1, says so, and wakes without a restore',
    async (outcome, reason, message) => {
      const one = pod();
      expect(await suspended(one, outcome)).toMatchObject({
        ok: true,
        suspended: false,
        instead: { reason, message: expect.stringMatching(message) },
      });
      await one.engine.wake(weights, () => {});
      expect(one.sent).toHaveLength(1);
      expect(one.did.at(-1)).toBe('wake');
    },
  );

  it('that loses the engine is a failed sleep', async () => {
    expect(await suspended(pod(), 'broken')).toEqual({ ok: false, suspended: false, message: 'm' });
  });

  it('is not offered by a launcher of an earlier release, which is not asked', async () => {
    const one = pod({ suspends: false });
    expect(await one.engine.suspend(weights)).toMatchObject({
      ok: true,
      instead: { reason: 'SuspendNotOffered', message: expect.stringMatching(/LauncherTooOld/) },
    });
    expect(one.sent).toEqual([]);
  });

  it('without a launcher sleeps at level 1', async () => {
    const one = pod({ connected: false });
    expect(await one.engine.suspend(weights)).toMatchObject({
      ok: true,
      instead: { reason: 'SuspendFailed' },
    });
    expect(one.checkpoints.mayBeSuspended()).toBe(false);
  });

  it('that nobody answers ends after 50 s, and is taken for done until the opposite is heard', async () => {
    vi.useFakeTimers();
    const one = pod();
    const done = one.engine.suspend(weights);
    await vi.advanceTimersByTimeAsync(49_999);
    expect(one.checkpoints.mayBeSuspended()).toBe(true);
    await vi.advanceTimersByTimeAsync(1);
    expect(await done).toMatchObject({ ok: true, instead: { message: expect.stringContaining('50000 ms') } });
    expect(one.checkpoints.mayBeSuspended()).toBe(true);
    one.answer('failed');
    expect(one.checkpoints.mayBeSuspended()).toBe(false);
  });

  it.each([
    [
      'its launcher goes away',
      (one: ReturnType<typeof pod>) => one.checkpoints.heard({ type: 'gone' }),
      true,
    ],
    ['its engine ends', (one: ReturnType<typeof pod>) => one.say({ type: 'exited' }), false],
    ['the agent ends', (one: ReturnType<typeof pod>) => one.engine.close(), true],
  ])('ends when %s', async (_, happens, mayBe) => {
    const one = pod();
    const done = one.engine.suspend(weights);
    await until('the word', () => one.sent.length === 1);
    happens(one);
    expect(await done).toMatchObject({ suspended: false, instead: { reason: 'SuspendFailed' } });
    expect(one.checkpoints.mayBeSuspended()).toBe(mayBe);
  });
});

describe('a wake', () => {
  it('whose restore fails is a failed wake, and is tried again from there', async () => {
    const one = pod();
    await suspended(one);
    const woken = one.engine.wake(weights, () => {});
    one.answer('failed', { message: 'CUDA_ERROR_OUT_OF_MEMORY' });
    expect(await woken).toEqual({
      ok: false,
      message: 'its CUDA state did not come back: CUDA_ERROR_OUT_OF_MEMORY',
    });
    expect(one.did).toEqual(['sleep 1']);
    const again = one.engine.wake(weights, () => {});
    one.answer('done');
    expect((await again).ok).toBe(true);
  });

  it('restores what an earlier agent suspended, by the word of the launcher', async () => {
    const one = pod();
    one.say({ ...holding, suspends: true, suspended: true });
    const woken = one.engine.wake(weights, () => {});
    expect(one.sent).toEqual([{ type: 'resume', call: 1 }]);
    one.answer('done');
    expect((await woken).ok).toBe(true);
  });
});

describe('what is carried out', () => {
  it('is explained once for each pod where it is not offered, and the sleep is one like any other', async () => {
    const one = pod({ suspends: false });
    const explained: unknown[] = [];
    const posted: unknown[] = [];
    const carry = createCarrier({
      engine: () => one.engine,
      explain: (effect: unknown) => explained.push(effect),
      post: (event: unknown) => posted.push(event),
    } as unknown as Parameters<typeof createCarrier>[0]);
    for (let round = 1; round <= 2; round++) {
      carry({ type: 'sleep-engine', podUid: uid, level: 1, suspend: true, bytes: weights });
      await until('its end', () => posted.length === round);
    }
    expect(posted[1]).toEqual({ type: 'slept', podUid: uid, ok: true, message: '', suspended: false });
    expect(explained).toEqual([
      expect.objectContaining({ type: 'explain', podUid: uid, reason: 'SuspendNotOffered', level: 'warn' }),
    ]);
  });
});

describe('the link to the launcher', () => {
  it('passes on what its lines say of it, and that it is gone', async () => {
    const path = join(folder(), 'grant.sock');
    const { log } = keptLog();
    const words: { type: string }[] = [];
    const link = createLauncherLink(
      uid,
      () => undefined,
      log,
      (word) => words.push(word),
    );
    const server = createServer((socket) => link.accept(socket)).listen(path);
    afterwards(() => void server.close());
    const launcher = dialGrant(path);
    launcher.say({ ...ask(uid), suspends: true });
    launcher.say({ type: 'started', pid: 7 });
    const answer = { call: 3, operation: 'suspend', outcome: 'done', reason: '', message: '' };
    launcher.say({ type: 'checkpointed', ...answer });
    launcher.say({ type: 'checkpointed', ...answer, call: 'three' });
    launcher.say({ type: 'checkpointed', ...answer, operation: 'both' });
    await until('three words', () => words.length === 3);
    launcher.socket.destroy();
    await until('gone', () => words.length === 4);
    expect(words).toEqual([
      { type: 'came', suspends: true, suspended: false },
      { type: 'new-engine' },
      { type: 'answered', ...answer },
      { type: 'gone' },
    ]);
  });
});
