/** How many bytes of bodies may come in, by what would become of them. */
import { describe, expect, it } from 'vitest';
import { bodyRoom } from '../../../sidecar/decide/body-room.ts';
import { type GateEvent, newGate, step } from '../../../sidecar/decide/gate.ts';
import { asState } from './fake-agent.ts';

const told = (state: 'SERVING' | 'SLEEPING' | 'DEACTIVATING', epoch: number): GateEvent => ({
  type: 'told',
  state: asState({ state, epoch }),
  atMs: 0,
});
const arrived: GateEvent = { type: 'arrived', id: 1, bytes: 70, hopped: false, atMs: 0 };
const queued = { bytesMax: 100, waitingBytes: 70 };

describe('room for bodies', () => {
  it.each<[string, GateEvent[], number, object]>([
    ['asleep they share with what waits', [told('SLEEPING', 1), arrived], 50, queued],
    ['barred they do too', [told('DEACTIVATING', 1), arrived], 50, queued],
    [
      'while the engine is away too',
      [told('SERVING', 1), arrived, { type: 'unsent', id: 1, atMs: 0 }],
      50,
      queued,
    ],
    [
      'serving they have four times the largest',
      [told('SERVING', 1)],
      50,
      { bytesMax: 200, waitingBytes: 0 },
    ],
    ['or the queue’s where that is more', [told('SERVING', 1)], 10, { bytesMax: 100, waitingBytes: 0 }],
    [
      'at the end too: they are handed on',
      [told('SLEEPING', 1), { type: 'end', settleMs: 0, atMs: 0 }],
      50,
      { bytesMax: 200, waitingBytes: 0 },
    ],
  ])('%s', (_, events, maxBodyBytes, room) => {
    const gate = newGate({ maxQueued: 9, maxQueuedBytes: 100, maxWaitMs: 1_000 }, 0);
    for (const event of events) step(gate, event);
    expect(bodyRoom(gate, maxBodyBytes)).toEqual(room);
  });
});
