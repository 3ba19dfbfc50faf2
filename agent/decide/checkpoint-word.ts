/** What a launcher's line says of suspend and resume (proto/grant.ts); its other words are launcher-line.ts. */
import type { Checkpointed } from '#proto/grant.ts';

export type CheckpointAnswer = Pick<Checkpointed, 'outcome' | 'reason' | 'message'>;

export type CheckpointWord =
  /** A launcher that has just come: whether it knows suspend, and how its engine is. */
  | { type: 'came'; suspends: boolean; suspended: boolean }
  /** Its engine is a new one, or none. */
  | { type: 'new-engine' }
  | ({ type: 'answered'; call: number; operation: Checkpointed['operation'] } & CheckpointAnswer)
  | { type: 'gone' };

/** Longest reason and message that are kept, characters. */
const reasonCharactersMax = 60;
const messageCharactersMax = 1_000;

const outcomes: readonly unknown[] = ['done', 'not-offered', 'failed', 'broken'];

function answer(fields: Record<string, unknown>): CheckpointWord | null {
  const { call, operation, outcome, reason, message } = fields;
  if (!Number.isSafeInteger(call) || (operation !== 'suspend' && operation !== 'resume')) return null;
  return {
    type: 'answered',
    call: call as number,
    operation,
    // An outcome of a later release proves nothing.
    outcome: outcomes.includes(outcome) ? (outcome as Checkpointed['outcome']) : 'failed',
    reason: String(reason ?? '').slice(0, reasonCharactersMax),
    message: String(message ?? '').slice(0, messageCharactersMax),
  };
}

/**
 * @param line that launcher-line.ts has read without a complaint
 * @returns null where it says nothing of it
 */
export function readCheckpointWord(line: string): CheckpointWord | null {
  const fields = JSON.parse(line) as Record<string, unknown>;
  switch (fields.type) {
    case 'ask':
      return { type: 'came', suspends: fields.suspends === true, suspended: false };
    case 'holding':
      return { type: 'came', suspends: fields.suspends === true, suspended: fields.suspended === true };
    case 'started':
    case 'exited':
      return { type: 'new-engine' };
    case 'checkpointed':
      return answer(fields);
    default:
      return null;
  }
}
