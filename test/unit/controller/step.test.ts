/** Events in, effects out: what is done once, what is tried again, and when nothing is done at all. */
import { describe, expect, it } from 'vitest';
import { type Effect, effectKey } from '../../../controller/decide/effects.ts';
import { placementsMax } from '../../../controller/decide/placement.ts';
import { watchedKinds } from '../../../controller/decide/snapshot.ts';
import {
  emptyState,
  futileMs,
  inFlightMax,
  retryMs,
  type State,
  settleMs,
  step,
} from '../../../controller/decide/step.ts';
import type { KubernetesObject } from '../../../platform/kubernetes/client.ts';
import { agentPod, gpu, model, node, noonMs, settings } from './builders.ts';

/** A leader whose lists are complete, over these objects. */
function leader(objects: Partial<Record<(typeof watchedKinds)[number], KubernetesObject[]>>): State {
  const state = emptyState();
  for (const kind of watchedKinds) {
    step(state, { type: 'synced', kind, objects: objects[kind] ?? [] }, settings, noonMs);
  }
  step(state, { type: 'leading' }, settings, noonMs);
  return state;
}
const tick = (state: State, atMs = noonMs) => step(state, { type: 'tick' }, settings, atMs);
const world = () => ({
  gpus: [gpu('n1', 0, { reachable: true })],
  nodes: [node('n1')],
  ownPods: [agentPod('n1')],
  models: [model('a', {}, { finalizers: [] })],
});
/** The finalizer of Model a, as planned. */
const finalizerOf = (effects: Effect[]) => effects.find(({ kind }) => kind === 'models')!;

describe('a tick', () => {
  it('does nothing until every list is complete, then does', () => {
    const state = emptyState();
    step(state, { type: 'leading' }, settings, noonMs);
    // Progress is for people: nothing waits for it.
    for (const kind of watchedKinds.filter((each) => each !== 'progress')) {
      expect(tick(state).effects).toEqual([]);
      const objects = (world() as Record<string, KubernetesObject[]>)[kind] ?? [];
      step(state, { type: 'synced', kind, objects }, settings, noonMs);
    }
    expect(tick(state).effects).not.toEqual([]);
  });

  it('does nothing on a follower, which takes over with what it has seen', () => {
    const state = leader(world());
    state.leading = false;
    expect(tick(state).effects).toEqual([]);
    step(state, { type: 'leading' }, settings, noonMs);
    expect(tick(state).effects).not.toEqual([]);
  });

  it('does not start twice what is under way', () => {
    const state = leader(world());
    expect(tick(state).effects).toHaveLength(2);
    expect(tick(state).effects).toEqual([]);
  });

  it(`starts no more than ${inFlightMax} effects at once`, () => {
    const models = Array.from({ length: inFlightMax + 5 }, (_, index) =>
      model(`m${index}`, {}, { finalizers: [] }),
    );
    const state = leader({ models });
    const first = tick(state).effects;
    expect(first).toHaveLength(inFlightMax);
    step(state, { type: 'done', effect: first[0]!, object: null }, settings, noonMs);
    expect(tick(state).effects).toHaveLength(1);
  });

  it(`places no more than ${placementsMax} replicas at once, and the rest in the next plans`, () => {
    const models = Array.from({ length: placementsMax + 3 }, (_, index) => model(`m${index}`));
    const gpus = Array.from({ length: 2 }, (_, index) => gpu('n1', index));
    const state = leader({ ...world(), gpus, models });
    const bound = tick(state).effects.flatMap((effect) =>
      effect.kind === 'gpus' && effect.type === 'apply'
        ? (effect.object as { spec: { bindings: unknown[] } }).spec.bindings
        : [],
    );
    expect(bound).toHaveLength(placementsMax);
  });
});

describe('an effect that failed', () => {
  it('is tried again after a pause that doubles up to its bound', () => {
    const state = leader(world());
    let at = noonMs;
    let effect = finalizerOf(tick(state, at).effects);
    for (let failures = 1; failures <= 10; failures += 1) {
      step(state, { type: 'failed', effect, message: 'no', status: 500 }, settings, at);
      const pauseMs = Math.min(retryMs.least * 2 ** (failures - 1), retryMs.most);
      const early = tick(state, at + pauseMs - 1);
      expect(early.effects.map(effectKey)).not.toContain(effectKey(effect));
      expect(early.wakeAtMs).toBeLessThanOrEqual(at + pauseMs);
      at += pauseMs;
      effect = finalizerOf(tick(state, at).effects);
    }
  });

  it('is remembered as a refusal only when the API server said no', () => {
    const state = leader(world());
    const effect = finalizerOf(tick(state).effects);
    step(state, { type: 'failed', effect, message: 'unreachable', status: 0 }, settings, noonMs);
    expect(state.refusals.size).toBe(0);
    step(state, { type: 'failed', effect, message: 'quota', status: 403 }, settings, noonMs);
    expect([...state.refusals.values()]).toEqual(['quota']);
    step(state, { type: 'done', effect, object: null }, settings, noonMs);
    expect(state.refusals.size).toBe(0);
  });
});

describe('an effect that was done', () => {
  const answer = (version: string, finalizers: string[] = []) =>
    model('a', {}, { resourceVersion: version, finalizers });

  it('is in the next plan at once, before the watch tells of it', () => {
    const state = leader(world());
    const effect = finalizerOf(tick(state).effects);
    step(state, { type: 'done', effect, object: answer('2', ['greenthread.ai/cleanup']) }, settings, noonMs);
    expect(tick(state).effects.filter(({ path }) => path === effect.path)).toEqual([]);
  });

  it('but changed nothing is not repeated for a while', () => {
    const state = leader(world());
    const effect = finalizerOf(tick(state).effects);
    step(state, { type: 'done', effect, object: answer('1') }, settings, noonMs);
    expect(tick(state, noonMs + futileMs - 1).effects).toEqual([]);
    expect(tick(state, noonMs + futileMs).effects.map(effectKey)).toContain(effectKey(effect));
  });

  it('but changed nothing holds up no other content: a Model that went and is made again waits for nothing', () => {
    const ending = model(
      'a',
      {},
      { deletionTimestamp: '2026-01-01T00:00:00Z', finalizers: ['greenthread.ai/cleanup'] },
    );
    const state = leader({ ...world(), models: [ending] });
    const removal = finalizerOf(tick(state).effects);
    // The API server answers the removal that ends an object with the version before.
    step(state, { type: 'done', effect: removal, object: ending }, settings, noonMs);
    step(state, { type: 'gone', kind: 'models', object: ending }, settings, noonMs);
    const again = model('a', {}, { uid: 'another', finalizers: [] });
    step(state, { type: 'put', kind: 'models', object: again }, settings, noonMs);
    const addition = finalizerOf(tick(state, noonMs + 1).effects);
    expect(effectKey(addition)).toBe(effectKey(removal));
  });

  it('as a deletion is not asked for again before the watch had time to tell', () => {
    const pod = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        name: 'x',
        namespace: 'default',
        uid: 'u',
        labels: { 'greenthread.ai/model': 'gone', 'greenthread.ai/replica': '0' },
      },
    };
    const state = leader({ pods: [pod] });
    const [effect] = tick(state).effects;
    step(state, { type: 'done', effect: effect!, object: null }, settings, noonMs);
    expect(tick(state, noonMs + settleMs - 1).effects).toEqual([]);
    expect(tick(state, noonMs + settleMs).effects).toHaveLength(1);
  });
});

describe('the caches', () => {
  const versionOf = (state: State) => state.caches.models.get('default/a')?.metadata.resourceVersion;
  const at = (version: string, uid = 'uid-default-a') => model('a', {}, { resourceVersion: version, uid });

  it('never go back to an older version of an object', () => {
    const state = leader({ models: [at('9')] });
    step(state, { type: 'put', kind: 'models', object: at('10') }, settings, noonMs);
    expect(step(state, { type: 'put', kind: 'models', object: at('9') }, settings, noonMs).isDirty).toBe(
      false,
    );
    expect(versionOf(state)).toBe('10');
  });

  it('do not bring back what is gone', () => {
    const state = leader({ models: [at('9')] });
    step(state, { type: 'gone', kind: 'models', object: at('11') }, settings, noonMs);
    step(state, { type: 'put', kind: 'models', object: at('10') }, settings, noonMs);
    expect(versionOf(state)).toBeUndefined();
    step(state, { type: 'put', kind: 'models', object: at('12', 'uid-new') }, settings, noonMs);
    expect(versionOf(state)).toBe('12');
  });

  it('keep of an object what decisions read', () => {
    const metadata = {
      name: 'p',
      namespace: 'x',
      managedFields: [{}],
      annotations: { 'kubectl.kubernetes.io/last-applied-configuration': '…', a: 'b' },
    };
    const pod = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata,
      spec: { nodeName: 'n1', containers: [{}] },
      status: { phase: 'Running' },
    };
    const state = leader({ pods: [pod as KubernetesObject] });
    expect(state.caches.pods.get('x/p')).toEqual({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'p', namespace: 'x', annotations: { a: 'b' } },
      spec: { nodeName: 'n1' },
      status: { phase: 'Running' },
    });
  });
});
