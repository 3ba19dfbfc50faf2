/** What /ready and /health say of each state. */
import { describe, expect, it } from 'vitest';
import type { ModelState } from '#proto/link.ts';
import { newGate, step } from '../../../sidecar/decide/gate.ts';
import { isHealthy, isReady } from '../../../sidecar/decide/status.ts';
import { asState } from './fake-agent.ts';

function gateIn(state: ModelState, bootReady: boolean) {
  const gate = newGate({ maxQueued: 1, maxQueuedBytes: 1, maxWaitMs: 1 }, 0);
  step(gate, { type: 'told', state: asState({ state, bootReady }), atMs: 0 });
  return gate;
}

describe('/ready and /health', () => {
  it.each<[string, ModelState, boolean, boolean, boolean]>([
    ['booting is neither', 'WAKING', false, false, false],
    ['failed before the first boot is neither', 'FAILED', false, false, false],
    ['asleep after a boot is both', 'SLEEPING', true, true, true],
    ['barred is both', 'DEACTIVATING', true, true, true],
    ['failed after a boot stays behind the Service', 'FAILED', true, true, false],
  ])('%s', (_, state, bootReady, ready, healthy) => {
    const gate = gateIn(state, bootReady);
    expect([isReady(gate), isHealthy(gate)]).toEqual([ready, healthy]);
  });

  it('an ending pod is not ready, and still healthy', () => {
    const gate = gateIn('SERVING', true);
    step(gate, { type: 'end', settleMs: 0, atMs: 0 });
    expect([isReady(gate), isHealthy(gate)]).toEqual([false, true]);
  });
});
