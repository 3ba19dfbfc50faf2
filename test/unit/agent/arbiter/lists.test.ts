/** What lists of pods, GPU resources and GPUs change, and needs that can never be met. */
import { describe, expect, it } from 'vitest';
import { isHopeless } from '../../../../agent/decide/arbiter/hopeless.ts';
import { openBooks } from '../../../../agent/decide/arbiter/ledger.ts';
import {
  forgetGone,
  nameReplica,
  onGpus,
  onPods,
  onRemembered,
  onResources,
  replicaOf,
} from '../../../../agent/decide/arbiter/pods.ts';
import {
  type ArbiterState,
  type Gpu,
  hasItsBindings,
  isUnheard,
  type Replica,
  refreshBindings,
} from '../../../../agent/decide/arbiter/state.ts';
import type { PodFact } from '../../../../agent/decide/arbiter/words.ts';
import { GiB, gpu, replica, stateOf, stepOf } from './pieces.ts';

const now = 100_000;
const node = (gpus: Gpu[], replicas: Replica[], rest: Partial<ArbiterState> = {}) =>
  Object.assign(stateOf(gpus, replicas, now), rest);
const { settings } = replica('any');

describe('a list of pods', () => {
  const fact: PodFact = {
    podUid: 'm',
    pod: 'm-pod',
    namespace: 'team',
    model: 'm',
    replica: 1,
    uuids: ['GPU-2'],
    vramBytes: 7,
    engineHash: null,
    settings,
    graceMs: 9,
    deleting: false,
  };
  const hear = (state: ArbiterState, pods: PodFact[]) => {
    const step = stepOf(state);
    onPods(step, { type: 'pods', pods, atMs: now });
    expect([state.podsListed, state.bindingsStale, step.changed]).toEqual([true, true, true]);
    return state;
  };
  it('makes what it names, in the order of first appearance', () => {
    const state = hear(node([], []), [fact, { ...fact, podUid: 'n', replica: 2 }]);
    expect(state.replicas.get('m')).toMatchObject({
      key: 'team/m/1',
      pod: 'm-pod',
      listed: true,
      deleting: false,
      uuids: ['GPU-2'],
      vramBytes: 7,
      graceMs: 9,
      order: 0,
      phase: 'absent',
      seenAtMs: now,
    });
    expect(state.replicas.get('n')?.order).toBe(1);
    expect(state.keys.get('team/m/1')).toEqual(['m']);
  });
  it('leaves what it does not say as it was', () => {
    const one = replica('m', { uuids: ['GPU-0'], vramBytes: 5 });
    hear(node([], [one]), [{ ...fact, uuids: [], vramBytes: null }]);
    expect(one).toMatchObject({ uuids: ['GPU-0'], vramBytes: 5, key: 'team/m/1' });
  });
  it('that names it no more unlists it', () => {
    const one = replica('m');
    hear(node([], [one]), []);
    expect(one.listed).toBe(false);
  });
  it('tells a deletion once', () => {
    const one = replica('m', { deletingSinceMs: 5 });
    const state = node([], [one]);
    hear(state, [fact]);
    expect(one.deletingSinceMs).toBe(5);
    hear(state, [{ ...fact, deleting: true }]);
    expect([one.deleting, one.deletingSinceMs]).toEqual([true, now]);
    one.deletingSinceMs = 7;
    hear(state, [{ ...fact, deleting: true }]);
    expect(one.deletingSinceMs).toBe(7);
  });
  it('renames it, and forgets the old name when it was the last of it', () => {
    const state = node([], []);
    const a = replicaOf(stepOf(state), 'a');
    const b = replicaOf(stepOf(state), 'b');
    expect(replicaOf(stepOf(state), 'a')).toBe(a);
    const name = { pod: 'p', namespace: 'd', model: 'm', replica: 0 };
    nameReplica(state, a, name);
    nameReplica(state, a, name);
    nameReplica(state, b, name);
    expect(state.keys.get('d/m/0')).toEqual(['a', 'b']);
    nameReplica(state, a, { ...name, model: 'n' });
    expect([...state.keys]).toEqual([
      ['d/m/0', ['b']],
      ['d/n/0', ['a']],
    ]);
    nameReplica(state, b, { ...name, model: 'n' });
    expect([...state.keys]).toEqual([['d/n/0', ['a', 'b']]]);
  });
});

describe('a pod that nobody speaks for', () => {
  const gone = {
    listed: false,
    attached: false,
    launcher: 'gone',
    detachedAtMs: 0,
    launcherGoneAtMs: now - 5_000,
  } as const;
  it.each<{
    why: string;
    of?: Partial<Replica>;
    state?: Partial<ArbiterState>;
    forgotten: boolean;
    againMs?: number;
  }>([
    { why: 'for 5 s is forgotten', forgotten: true },
    {
      why: 'since its sidecar went, too',
      of: { detachedAtMs: now - 4_999 },
      forgotten: false,
      againMs: now + 1,
    },
    { why: 'is kept until then', of: { launcherGoneAtMs: now - 4_999 }, forgotten: false, againMs: now + 1 },
    { why: 'is kept while it is listed', of: { listed: true }, forgotten: false },
    { why: 'is kept while its sidecar is there', of: { attached: true }, forgotten: false },
    { why: 'is kept while its launcher is there', of: { launcher: 'connected' }, forgotten: false },
    { why: 'is kept where nobody lists', state: { podsListed: false }, forgotten: false },
  ])('$why', ({ of, state: rest, forgotten, againMs }) => {
    const one = replica('m', { ...gone, uuids: ['GPU-9', 'GPU-0'], ...of });
    const card = gpu({ foreignBytes: GiB, foreignSinceMs: 1, changedAtMs: 1, wantedMs: 1 });
    const state = node([card], [one], { podsListed: true, ...rest });
    const step = stepOf(state);
    forgetGone(step);
    expect(state.replicas.has('m')).toBe(!forgotten);
    expect(state.keys.has(one.key)).toBe(!forgotten);
    expect(step.changed).toBe(forgotten);
    expect(step.nextMs).toBe(againMs ?? Number.POSITIVE_INFINITY);
    // What it held is nobody's until it is measured.
    expect([card.foreignBytes / GiB, card.changedAtMs, card.wantedMs]).toEqual(
      forgotten ? [21, now, now] : [1, 1, 1],
    );
    // Nobody fails for a stranger that has only just come into the books.
    expect(card.foreignSinceMs).toBe(forgotten ? now : 1);
  });

  it('and held nothing makes no stranger older or younger', () => {
    const one = replica('m', { ...gone, phase: 'absent', proven: true, bytes: [0] });
    const card = gpu({ foreignBytes: GiB, foreignSinceMs: 1 });
    forgetGone(stepOf(node([card], [one], { podsListed: true })));
    expect([card.foreignBytes, card.foreignSinceMs]).toEqual([GiB, 1]);
  });
});

describe('a list of GPUs', () => {
  const hear = (
    state: ArbiterState,
    gpus: { uuid: string; index: number; totalBytes: number; usable: boolean }[],
  ) => {
    const step = stepOf(state);
    onGpus(step, { type: 'gpus', gpus, atMs: now });
    expect([step.changed, state.bindingsStale]).toEqual([true, true]);
  };
  const fact = { uuid: 'GPU-0', index: 3, totalBytes: 5, usable: true };
  it('makes one that is new, unmeasured', () => {
    const state = node([], [], { resourcesListed: true });
    hear(state, [fact]);
    expect(state.gpus.get('GPU-0')).toMatchObject({
      index: 3,
      totalBytes: 5,
      usable: true,
      listed: true,
      unusableSinceMs: null,
      resource: false,
      freeBytes: null,
      measuredAtMs: -1,
      wantedMs: now,
      foreignBytes: 0,
      bindings: [],
    });
    const early = node([], []);
    hear(early, [fact]);
    expect(early.gpus.get('GPU-0')?.resource).toBe(true);
  });
  it.each<{ why: string; before: Partial<Gpu>; usable: boolean | null; after: Partial<Gpu> }>([
    {
      why: 'that goes on',
      before: {},
      usable: true,
      after: { usable: true, unusableSinceMs: null, freeBytes: 80 * GiB },
    },
    {
      why: 'that is not well',
      before: {},
      usable: false,
      after: { usable: false, listed: true, unusableSinceMs: now },
    },
    {
      why: 'that is still not well',
      before: { unusableSinceMs: 7 },
      usable: false,
      after: { unusableSinceMs: 7 },
    },
    {
      why: 'that is well again',
      before: { unusableSinceMs: 7, usable: false },
      usable: true,
      after: { usable: true, unusableSinceMs: null, freeBytes: 80 * GiB },
    },
    {
      why: 'that is not listed',
      before: {},
      usable: null,
      after: { listed: false, usable: false, unusableSinceMs: now },
    },
    {
      why: 'that comes back',
      before: { listed: false, unusableSinceMs: 7 },
      usable: true,
      after: {
        listed: true,
        freeBytes: null,
        usedBytes: null,
        changedAtMs: now,
        wantedMs: now,
        unusableSinceMs: null,
      },
    },
  ])('knows one $why', ({ before, usable, after }) => {
    const card = gpu(before);
    hear(node([card], []), usable === null ? [] : [{ ...fact, usable }]);
    expect(card).toMatchObject(after);
  });
});

describe('a list of GPU resources', () => {
  const binding = { namespace: 'default', model: 'm', replica: 0, reservedBytes: 9 * GiB, popular: true };
  it('takes away what it does not name', () => {
    const state = node([gpu({ bindings: [binding] }), gpu({ uuid: 'GPU-1' })], []);
    const step = stepOf(state);
    onResources(step, {
      type: 'gpu-resources',
      resources: [
        { uuid: 'GPU-1', bindings: [binding] },
        { uuid: 'GPU-7', bindings: [] },
      ],
      atMs: now,
    });
    const seen = [...state.gpus.values()].map(({ uuid, resource, bindings }) => [
      uuid,
      resource,
      bindings.length,
    ]);
    expect(seen).toEqual([
      ['GPU-0', false, 0],
      ['GPU-1', true, 1],
      ['GPU-7', true, 0],
    ]);
    // The driver has not listed it.
    expect(state.gpus.get('GPU-7')).toMatchObject({ index: -1, totalBytes: 0, usable: false, listed: false });
    expect([state.resourcesListed, state.bindingsStale, step.changed]).toEqual([true, true, true]);
  });
  it.each<{
    why: string;
    of?: Partial<Replica>;
    bound?: boolean;
    listed?: boolean;
    popular: boolean;
    reservedGib: number | null;
  }>([
    { why: 'by the binding', bound: true, popular: true, reservedGib: 9 },
    { why: 'by its settings while nobody lists', bound: true, listed: false, popular: false, reservedGib: 9 },
    { why: 'by the annotation where it is not bound', popular: false, reservedGib: 20 },
    {
      why: 'by what its launcher asked where there is none',
      of: { vramBytes: null, askedBytes: 3 * GiB },
      popular: false,
      reservedGib: 3,
    },
    { why: 'by nobody', of: { vramBytes: null }, popular: false, reservedGib: null },
    {
      why: 'by its settings where it is not bound',
      of: { settings: { ...settings, fairness: { ...settings.fairness, popular: true } } },
      popular: true,
      reservedGib: 20,
    },
    { why: 'by the binding over its settings', bound: true, of: { settings }, popular: true, reservedGib: 9 },
  ])(
    'decides what is reserved and pinned $why',
    ({ of, bound = false, listed = true, popular, reservedGib }) => {
      const one = replica('m', of);
      const state = node([gpu({ bindings: bound ? [binding] : [] })], [one], {
        resourcesListed: listed,
        bindingsStale: true,
      });
      refreshBindings(state);
      expect([one.popular, one.reservedBytes.map((bytes) => bytes && bytes / GiB)]).toEqual([
        popular,
        [reservedGib],
      ]);
      expect(state.bindingsStale).toBe(false);
    },
  );
  it.each<{ why: string; on?: Partial<Gpu>; of?: Partial<Replica>; listed?: boolean; whole: boolean }>([
    { why: 'bindings and all', on: { bindings: [binding] }, whole: true },
    { why: 'gone', on: { resource: false, bindings: [binding] }, whole: false },
    { why: 'back without the bindings of a pod that is there', whole: false },
    { why: 'empty because its pods are gone', of: { listed: false }, whole: true },
    { why: 'empty because its pods are being deleted', of: { deleting: true }, whole: true },
    { why: 'empty because its pods are elsewhere', of: { uuids: ['GPU-1'] }, whole: true },
    { why: 'empty before anything was listed', listed: false, whole: true },
  ])('is whole: $whole, $why', ({ on, of, listed = true, whole }) => {
    const card = gpu(on);
    expect(hasItsBindings(node([card], [replica('m', of)], { resourcesListed: listed }), card)).toBe(whole);
  });
});

describe('a figure from an earlier life', () => {
  it('stands in until this life has its own', () => {
    const hear = (of: Partial<Replica>) => {
      const one = replica('m', of);
      onRemembered(stepOf(node([], [one])), one, {
        type: 'remembered',
        podUid: 'm',
        awakeBytes: 7,
        residueBytes: 2,
        atMs: now,
      });
      return [one.awakeBytes, one.residueBytes, one.firstResidueBytes];
    };
    expect(hear({})).toEqual([7, 2, 2]);
    expect(hear({ awakeBytes: 9, residueBytes: 3, firstResidueBytes: 4 })).toEqual([9, 3, 4]);
  });
});

describe('a pod whose launcher has not spoken', () => {
  it.each<{ why: string; of: Partial<Replica>; settledAtMs?: number; unheard: boolean }>([
    { why: 'was there at the start', of: { seenAtMs: now - 4_000 }, settledAtMs: now - 3_000, unheard: true },
    { why: 'came later', of: { seenAtMs: now - 1_000 }, settledAtMs: now - 3_000, unheard: false },
    {
      why: 'came later, and holds memory',
      of: { seenAtMs: now - 1_000, bytes: [0, 5] },
      settledAtMs: now - 3_000,
      unheard: true,
    },
    {
      why: 'came later, and holds none',
      of: { seenAtMs: now - 1_000, bytes: [0] },
      settledAtMs: now - 3_000,
      unheard: false,
    },
    {
      why: 'had its 5 s since the start',
      of: { seenAtMs: now - 9_000 },
      settledAtMs: now - 5_000,
      unheard: false,
    },
    { why: 'has not had them', of: { seenAtMs: now - 9_000 }, settledAtMs: now - 4_999, unheard: true },
    {
      why: 'had its 5 s since it came',
      of: { seenAtMs: now - 5_000, bytes: [5] },
      settledAtMs: now - 8_000,
      unheard: false,
    },
    {
      why: 'has an engine that was asked',
      of: { phase: 'checking', seenAtMs: now - 4_000 },
      settledAtMs: now - 3_000,
      unheard: false,
    },
    {
      why: 'has spoken after all',
      of: { launcher: 'connected', seenAtMs: now - 4_000 },
      settledAtMs: now - 3_000,
      unheard: false,
    },
  ])('may have one that boots: $unheard, it $why', ({ of, settledAtMs = 0, unheard }) => {
    const one = replica('m', { phase: 'absent', launcher: 'never', ...of });
    expect(isUnheard(node([gpu()], [one], { settledAtMs }), one)).toBe(unheard);
  });
});

describe('a need that can never be met', () => {
  const waits = { inFlight: 0, queued: 1, oldestWaitMs: 1, idleMs: 0, requestsTotal: 1 };
  const pinned = replica('pinned', { popular: true, reservedBytes: [70 * GiB] });
  function judge(of: Partial<Replica>, on: Partial<Gpu> = {}, others: Replica[] = []) {
    const one = replica('m', { phase: 'asleep', ...of });
    const state = node([gpu(on)], [one, ...others]);
    const step = stepOf(state);
    const hopeless = isHopeless(step, one, [openBooks(state).get('GPU-0')!]);
    return { one, step, hopeless };
  }
  it('is said at once and for good, with figures', () => {
    const { one, step, hopeless } = judge({}, {}, [pinned]);
    expect(hopeless).toBe(true);
    expect(one.failure).toEqual({
      reason: 'NeverFits',
      message:
        'm needs 20.0 GiB on GPU 0; at most 10.0 GiB can be free there beside pinned models and what sleepers keep: lower gpuMemoryUtilization or vramPerGPU',
      retryAtMs: null,
    });
    expect(step.effects).toHaveLength(1);
  });
  it('never speaks of less than nothing', () => {
    const huge = { ...pinned, reservedBytes: [90 * GiB] };
    expect(judge({}, {}, [huge]).one.failure?.message).toMatch(/at most 0\.0 GiB can/);
  });
  it('may be met to the byte', () => {
    expect(judge({}, {}, [{ ...pinned, reservedBytes: [60 * GiB] }]).hopeless).toBe(false);
    expect(judge({}, { foreignBytes: 60 * GiB }).hopeless).toBe(false);
  });
  it('is one of a boot by what its launcher asked for', () => {
    expect(judge({ phase: 'asking', askedBytes: 81 * GiB }).hopeless).toBe(true);
    expect(judge({ phase: 'asleep', askedBytes: 81 * GiB }).hopeless).toBe(false);
  });
  it.each<{ why: string; on: Partial<Gpu>; of?: Partial<Replica>; hopeless: boolean; said: number }>([
    {
      why: 'a stranger has been there for 10 s',
      on: { foreignSinceMs: now - 10_000 },
      hopeless: true,
      said: 1,
    },
    { why: 'not for 10 s yet', on: { foreignSinceMs: now - 9_999 }, hopeless: false, said: 0 },
    {
      why: 'what was measured after 10 s is not known yet',
      on: { foreignSinceMs: now - 10_000, measuredAtMs: now - 1 },
      hopeless: false,
      said: 0,
    },
    {
      why: 'it was said',
      on: { foreignSinceMs: 0 },
      of: { failure: { reason: 'StrangerHoldsMemory', message: 'x', retryAtMs: now + 1 } },
      hopeless: true,
      said: 0,
    },
    {
      why: 'it was said and clients try again',
      on: { foreignSinceMs: 0 },
      of: { demand: waits, failure: { reason: 'StrangerHoldsMemory', message: 'x', retryAtMs: now } },
      hopeless: true,
      said: 1,
    },
    {
      why: 'it was said and nobody tries',
      on: { foreignSinceMs: 0 },
      of: { failure: { reason: 'StrangerHoldsMemory', message: 'x', retryAtMs: now } },
      hopeless: true,
      said: 0,
    },
    {
      why: 'another failure was',
      on: { foreignSinceMs: 0 },
      of: { failure: { reason: 'EngineFailed', message: 'x', retryAtMs: now } },
      hopeless: true,
      said: 1,
    },
  ])('is the fault of strangers: $hopeless, $why', ({ on, of, hopeless, said }) => {
    const run = judge(of ?? {}, { foreignBytes: 60 * GiB + 1, measuredAtMs: now, ...on });
    expect(run.hopeless).toBe(hopeless);
    expect(run.step.effects).toHaveLength(said);
    if (said)
      expect(run.one.failure).toEqual({
        reason: 'StrangerHoldsMemory',
        message: 'm needs 20.0 GiB on GPU 0; processes of no model hold 60.0 GiB there: end them',
        retryAtMs: now + 30_000,
      });
  });
  it.each([
    ['NeverFits', null],
    ['StrangerHoldsMemory', null],
    ['EngineFailed', 'EngineFailed'],
  ])('is taken back when it can: %s', (reason, left) => {
    const { one, hopeless } = judge({ failure: { reason, message: 'x', retryAtMs: 1 } });
    expect([hopeless, one.failure?.reason ?? null]).toEqual([false, left]);
  });
});
