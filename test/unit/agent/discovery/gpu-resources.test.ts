import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { GpuMeasurement, GpuReading, Probe } from '../../../../agent/decide/facts.ts';
import {
  bytesEveryMs,
  type DesiredGpu,
  desiredGpus,
  type GpuObject,
  type GpuView,
  gpuManifest,
  gpuWrites,
  productName,
} from '../../../../agent/decide/gpu-resources.ts';
import { judge, rememberGpus } from '../../../../agent/decide/health.ts';
import { identityOnly, parseQuery } from '../../../../agent/observe/nvidia-smi/xml.ts';
import * as crd from '../../../../api/crd.ts';
import { gpuNodePrefixMax, gpuRules, gpuSpec, gpuStatus } from '../../../../api/gpu.ts';
import { apiVersion, gpuName } from '../../../../proto/names.ts';
import { fixture, fixturePath } from './fake-nvidia-smi.ts';

const mib = 2 ** 20;
const reading = (uuid: string, index: number, rest: Partial<GpuReading> = {}): GpuReading => ({
  ...identityOnly({ uuid, index, name: 'NVIDIA A40', busId: `00000000:0${index}:00.0` }),
  driver: '595.58.03',
  totalBytes: 49140 * mib,
  usedBytes: 4 * mib,
  freeBytes: 48542 * mib,
  ...rest,
});
const probe = (...gpus: GpuReading[]): Probe => ({ startedAtMs: 0, gpus, faults: [] });
const view = (seen: Probe, rest: Partial<GpuView> = {}): GpuView => ({
  nodeName: 'n1',
  probe: seen,
  health: judge({}, seen).memory,
  measured: null,
  occupants: {},
  existing: [],
  ...rest,
});
const stored = (gpu: DesiredGpu, rest: Partial<GpuObject> = {}): GpuObject => ({
  ...gpuManifest(gpu, null),
  ...rest,
});

describe('a product', () => {
  it.each([
    ['NVIDIA A100-SXM4-80GB', 'NVIDIA-A100-SXM4-80GB'],
    ['Tesla T4', 'Tesla-T4'],
    ['NVIDIA RTX 4000 SFF Ada Generation', 'NVIDIA-RTX-4000-SFF-Ada-Generation'],
    [`N${'x'.repeat(200)}`, `N${'x'.repeat(127)}`],
    ['  NVIDIA  GeForce\tRTX 3080 (Ti) ', 'NVIDIA-GeForce-RTX-3080-Ti'],
  ])('is spelt as GPU feature discovery does: %s', (name, product) => {
    expect(productName(name)).toBe(product);
  });
});

describe('a name', () => {
  const cel = (gpuRules['x-kubernetes-validations'] as { rule: string }[])[0]!.rule;
  /** The rule of api/gpu.ts, as the API server reads it. */
  const allowed = (name: string, node: string) =>
    node.length <= gpuNodePrefixMax
      ? name.startsWith(`gpu-${node}-`)
      : name.startsWith(`gpu-${node.slice(0, gpuNodePrefixMax)}`);

  it.each([
    ['short', 'n1'],
    ['just short enough', 'n'.repeat(gpuNodePrefixMax)],
    ['one too long', `${'n'.repeat(gpuNodePrefixMax)}x`],
    ['cut after a dot', `${'n'.repeat(gpuNodePrefixMax - 1)}.example.com`],
    ['as long as can be', `${'n'.repeat(250)}.io`],
  ])('fits any Node: %s', (_, node) => {
    const name = gpuName(node, 63);
    expect(name).toMatch(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/);
    expect(name.length).toBeLessThanOrEqual(253);
    expect(allowed(name, node)).toBe(true);
    expect(cel).toContain(`<= ${gpuNodePrefixMax} ?`);
    expect(gpuSpec.parse({ nodeName: node, index: 63, uuid: 'GPU-a' })).toBeTruthy();
  });

  it('of two long Nodes that begin alike differs', () => {
    const long = 'n'.repeat(240);
    expect(gpuName(`${long}a`, 0)).not.toBe(gpuName(`${long}b`, 0));
  });

  it('goes with the API version of api/', () => {
    expect(apiVersion).toBe(crd.apiVersion);
  });
});

describe('the wanted resources', () => {
  it('hold what the driver said and nothing else', () => {
    expect(desiredGpus(view(probe(reading('GPU-a', 0))))).toEqual([
      {
        name: 'gpu-n1-0',
        spec: { nodeName: 'n1', index: 0, uuid: 'GPU-a' },
        status: {
          uuid: 'GPU-a',
          product: 'NVIDIA-A40',
          memory: { totalBytes: 49140 * mib, usedBytes: 4 * mib, freeBytes: 48542 * mib },
          mode: 'idle',
          health: 'Healthy',
          driver: '595.58.03',
        },
      },
    ]);
  });

  it.each(readdirSync(fixturePath('')))('are valid for a captured answer: %s', (file) => {
    const [gpu] = desiredGpus(view({ startedAtMs: 0, ...parseQuery(fixture(file)) }));
    expect(gpuStatus.parse(gpu!.status)).toEqual(gpu!.status);
    expect(gpu!.status.health).toBe('Healthy');
  });

  it('leave out memory that is not known', () => {
    const unread = reading('GPU-a', 0, { totalBytes: null, usedBytes: null, freeBytes: null });
    const [gpu] = desiredGpus(view(probe(unread)));
    expect(gpu!.status).not.toHaveProperty('memory');
    expect(gpu!.status).toMatchObject({ health: 'Unknown', healthReason: 'MemoryUnreadable' });
  });

  it.each([
    [{ totalBytes: 5, usedBytes: null, freeBytes: null }, { totalBytes: 5 }],
    [{ totalBytes: null, usedBytes: 5, freeBytes: null }, { usedBytes: 5 }],
    [{ totalBytes: null, usedBytes: null, freeBytes: 0 }, { freeBytes: 0 }],
  ])('hold of the memory what is known: %j', (known, memory) => {
    const [gpu] = desiredGpus(view(probe(reading('GPU-a', 0, known))));
    expect(gpu!.status.memory).toEqual(memory);
  });

  it('hold no longer texts than the API takes', () => {
    const verdict = {
      health: 'Unhealthy',
      reason: 'R'.repeat(300),
      message: 'm'.repeat(3_000),
      usable: false,
    } as const;
    const health = { 'GPU-a': { verdict, candidate: null, slowdowns: [], busId: null } };
    const long = reading('GPU-a', 0, { driver: 'd'.repeat(100), name: 'n'.repeat(200) });
    const { status } = desiredGpus(view(probe(long), { health }))[0]!;
    expect(
      [status.healthReason, status.healthMessage, status.driver, status.product].map((text) => text!.length),
    ).toEqual([128, 1024, 64, 128]);
    expect(gpuStatus.parse(status)).toEqual(status);
  });

  it('say of a GPU without a verdict, a name or a driver what they can', () => {
    const bare = reading('GPU-a', 0, { name: '', driver: null });
    const { status } = desiredGpus(view(probe(bare), { health: {} }))[0]!;
    expect(status).toMatchObject({ health: 'Unknown', healthReason: 'NotProbed' });
    const { status: _, ...unwritten } = stored(desiredGpus(view(probe(bare)))[0]!);
    const [again] = desiredGpus(view(probe(bare), { existing: [unwritten as GpuObject] }));
    expect(Object.keys(again!.status)).not.toContain('driver');
    expect(Object.keys(status)).toEqual([
      'uuid',
      'memory',
      'mode',
      'health',
      'healthReason',
      'healthMessage',
    ]);
  });

  it('give each new GPU its place in the listing, or the first free one', () => {
    const [kept] = desiredGpus(view(probe(reading('GPU-k', 1))));
    const listing = probe(reading('GPU-c', 2), reading('GPU-a', 0), reading('GPU-b', 1));
    const names = desiredGpus(view(listing, { existing: [stored(kept!)] })).map(({ spec }) => [
      spec.index,
      spec.uuid,
    ]);
    expect(names).toEqual([
      [0, 'GPU-a'],
      [1, 'GPU-k'],
      [2, 'GPU-b'],
      [3, 'GPU-c'],
    ]);
  });

  it('are not in the way of indices of other nodes', () => {
    const [elsewhere] = desiredGpus(view(probe(reading('GPU-z', 0)), { nodeName: 'n2' }));
    const existing = [stored(elsewhere!)];
    expect(desiredGpus(view(probe(reading('GPU-a', 0)), { existing }))[0]!.spec.index).toBe(0);
  });

  it.each([false, true])(
    'of one UUID twice are the one of the lower index, else the first name (%s)',
    (turned) => {
      const at = (index: number, name: string): GpuObject => {
        const [gpu] = desiredGpus(view(probe(reading('GPU-a', index))));
        return { ...stored(gpu!), metadata: { name } };
      };
      const pick = (...existing: GpuObject[]) =>
        desiredGpus(
          view(probe(reading('GPU-a', 0)), { existing: turned ? existing.reverse() : existing }),
        ).map(({ name, spec }) => [name, spec.index]);
      expect(pick(at(1, 'a'), at(3, 'b'), at(2, 'c'))).toEqual([['a', 1]]);
      expect(pick(at(1, 'b'), at(1, 'a'), at(1, 'c'))).toEqual([['a', 1]]);
    },
  );

  it('prefer the quick measurement', () => {
    const measured: GpuMeasurement[] = [
      { uuid: 'GPU-a', totalBytes: 9, usedBytes: 2, freeBytes: 7, byPod: {}, foreignBytes: 0 },
    ];
    const [gpu] = desiredGpus(view(probe(reading('GPU-a', 0)), { measured }));
    expect(gpu!.status.memory).toEqual({ totalBytes: 9, usedBytes: 2, freeBytes: 7 });
  });

  it('are in mode inference while a Model is bound', () => {
    const seen = probe(reading('GPU-a', 0));
    const [gpu] = desiredGpus(view(seen));
    const binding = {
      namespace: 'a',
      model: 'm',
      replica: 0,
      uuid: 'GPU-a',
      reservedBytes: 1,
      popular: false,
    };
    const bound = stored(gpu!, { spec: { ...gpu!.spec, bindings: [binding] } });
    const [again] = desiredGpus(view(seen, { existing: [bound] }));
    expect(again!.status.mode).toBe('inference');
    expect(again!.spec).not.toHaveProperty('bindings');
  });

  it('keep an index with its UUID, however the listing shifts', () => {
    const before = desiredGpus(view(probe(reading('GPU-a', 0), reading('GPU-b', 1)))).map((gpu) =>
      stored(gpu),
    );
    const shifted = probe(reading('GPU-b', 0), reading('GPU-c', 1));
    const health = judge(judge(rememberGpus({}, [{ uuid: 'GPU-a' }]), shifted).memory, shifted).memory;
    const after = desiredGpus(view(shifted, { existing: before, health }));
    expect(
      after.map(({ name, spec, status }) => [name, spec.uuid, status.health, status.healthReason]),
    ).toEqual([
      ['gpu-n1-0', 'GPU-a', 'Unhealthy', 'Missing'],
      ['gpu-n1-1', 'GPU-b', 'Healthy', undefined],
      ['gpu-n1-2', 'GPU-c', 'Healthy', undefined],
    ]);
    // What the missing one was is still told, its memory is not.
    expect(after[0]!.status).toMatchObject({ product: 'NVIDIA-A40', driver: '595.58.03' });
    expect(after[0]!.status).not.toHaveProperty('memory');
  });

  it('leave the resources of other nodes alone', () => {
    const [elsewhere] = desiredGpus(view(probe(reading('GPU-z', 0)), { nodeName: 'n2' }));
    const desired = desiredGpus(view(probe(reading('GPU-a', 0)), { existing: [stored(elsewhere!)] }));
    expect(desired.map(({ name }) => name)).toEqual(['gpu-n1-0']);
  });

  it('hold occupants in one order, and no more than the API takes', () => {
    const occupant = (podUid: string) => ({
      namespace: 'a',
      model: 'm',
      replica: 0,
      pod: 'p',
      podUid,
      state: 'asleep' as const,
      popular: false,
    });
    const many = Array.from({ length: 600 }, (_, i) => occupant(`uid-${String(999 - i)}`));
    const [gpu] = desiredGpus(view(probe(reading('GPU-a', 0)), { occupants: { 'GPU-a': many } }));
    expect(gpu!.status.occupants).toHaveLength(512);
    expect(gpu!.status.occupants![0]!.podUid).toBe('uid-400');
    const mixed = { 'GPU-a': ['b', 'd', 'a', 'c'].map(occupant) };
    const [few] = desiredGpus(view(probe(reading('GPU-a', 0)), { occupants: mixed }));
    expect(few!.status.occupants!.map(({ podUid }) => podUid)).toEqual(['a', 'b', 'c', 'd']);
  });
});

describe('what is written', () => {
  const [desired] = desiredGpus(view(probe(reading('GPU-a', 0))));
  const there = stored(desired!);
  const owner = { apiVersion: 'v1', kind: 'Node', name: 'n1', uid: 'node-uid' };
  const writes = (
    wanted: DesiredGpu,
    existing: GpuObject[] = [there],
    options: Partial<Parameters<typeof gpuWrites>[2]> = {},
  ) => gpuWrites([wanted], existing, { owner: null, nowMs: 10_000, writtenAtMs: {}, ...options });
  const withStatus = (change: object): DesiredGpu => ({
    ...desired!,
    status: { ...desired!.status, ...change },
  });
  const withFree = (freeBytes: number) => withStatus({ memory: { ...desired!.status.memory, freeBytes } });
  const parts = (result: ReturnType<typeof writes>) => result.writes.map(({ part }) => part);

  it('is nothing when nothing differs, in whatever order the API server keeps it', () => {
    const kept = JSON.parse(
      JSON.stringify({ ...there, status: { ...there.status, conditions: [] } }),
    ) as GpuObject;
    expect(writes(desired!, [kept])).toEqual({ writes: [], againMs: null });
  });

  it('is object and status, in that order, where there is none', () => {
    const { writes: made } = writes(desired!, [], { owner });
    expect(made.map(({ name, part }) => [name, part])).toEqual([
      ['gpu-n1-0', 'object'],
      ['gpu-n1-0', 'status'],
    ]);
    expect(made[0]!.body).toEqual({
      apiVersion: 'greenthread.ai/v1alpha1',
      kind: 'GPU',
      metadata: { name: 'gpu-n1-0', ownerReferences: [owner] },
      spec: { nodeName: 'n1', index: 0, uuid: 'GPU-a' },
    });
    expect(made[1]!.body).not.toHaveProperty('spec');
    expect(made[1]!.body).toMatchObject({ kind: 'GPU', apiVersion, metadata: { name: 'gpu-n1-0' } });
  });

  it('is the object alone when only its owner differs', () => {
    expect(parts(writes(desired!, [there], { owner }))).toEqual(['object']);
    const owned = { ...there, metadata: { ...there.metadata, ownerReferences: [owner] } };
    expect(parts(writes(desired!, [owned], { owner }))).toEqual([]);
    expect(parts(writes(desired!, [owned], { owner: { ...owner, uid: 'new' } }))).toEqual(['object']);
  });

  it.each([
    ['health', { health: 'Unhealthy' }],
    ['its reason', { healthReason: 'Missing' }],
    ['mode', { mode: 'inference' }],
    ['driver', { driver: '610.1' }],
    ['the total', { memory: { ...desired!.status.memory, totalBytes: 1 } }],
    ['an occupant', { occupants: [{ podUid: 'p', state: 'serving' }] }],
  ])('is the status at once when a state changes: %s', (_, change) => {
    const result = writes(withStatus(change), [there], { writtenAtMs: { 'gpu-n1-0': 9_999 } });
    expect(parts(result)).toEqual(['status']);
  });

  it('is the status at once when an occupant changes its state, with the bytes as they are', () => {
    const occupied = (state: string, residueBytes: number) =>
      withStatus({ occupants: [{ podUid: 'p', state, residueBytes }] });
    const before = stored(occupied('serving', 5));
    expect(parts(writes(occupied('serving', 6), [before]))).toEqual([]);
    expect(parts(writes(occupied('asleep', 6), [before]))).toEqual(['status']);
  });

  it('is nothing for bytes that moved by 64 MiB or less, or by 1 % or less', () => {
    const free = desired!.status.memory!.freeBytes!;
    expect(writes(withFree(free - 64 * mib))).toEqual({ writes: [], againMs: null });
    expect(writes(withFree(Math.ceil(free * 0.99)))).toEqual({ writes: [], againMs: null });
    const small = stored(withFree(1_000 * mib));
    expect(parts(writes(withFree(1_064 * mib), [small]))).toEqual([]);
    expect(parts(writes(withFree(1_065 * mib), [small]))).toEqual(['status']);
  });

  it('is bytes that moved further, at most every 5 s', () => {
    const further = withFree(desired!.status.memory!.freeBytes! - 1_000 * mib);
    expect(parts(writes(further))).toEqual(['status']);
    const soon = writes(further, [there], { writtenAtMs: { 'gpu-n1-0': 9_000 } });
    expect(soon).toEqual({ writes: [], againMs: 9_000 + bytesEveryMs });
    expect(parts(writes(further, [there], { nowMs: 14_000, writtenAtMs: { 'gpu-n1-0': 9_000 } }))).toEqual([
      'status',
    ]);
  });

  it('is bytes that moved at the very moment, and the earliest of several otherwise', () => {
    const further = withFree(desired!.status.memory!.freeBytes! - 1_000 * mib);
    const at = (nowMs: number) => writes(further, [there], { nowMs, writtenAtMs: { 'gpu-n1-0': 9_000 } });
    expect(parts(at(13_999))).toEqual([]);
    expect(at(14_000)).toMatchObject({ againMs: null, writes: [{ part: 'status' }] });
    expect(bytesEveryMs).toBe(5_000);
    const second = { ...further, name: 'gpu-n1-1' };
    const both = [there, { ...there, metadata: { name: 'gpu-n1-1' } }];
    for (const [first, next] of [
      [further, second],
      [second, further],
    ] as const) {
      const { againMs } = gpuWrites([first, next], both, {
        owner: null,
        nowMs: 10_000,
        writtenAtMs: { 'gpu-n1-0': 9_000, 'gpu-n1-1': 7_000 },
      });
      // The owner is not known, the second's object differs in nothing.
      expect(againMs).toBe(7_000 + bytesEveryMs);
    }
  });

  it.each([
    ['used', { memory: { ...desired!.status.memory, usedBytes: 4_000 * mib } }],
    ['free', { memory: { ...desired!.status.memory, freeBytes: 4_000 * mib } }],
    ['not known any more', { memory: { totalBytes: desired!.status.memory!.totalBytes } }],
    [
      "an occupant's",
      { occupants: [{ podUid: 'p', state: 'asleep', awakeBytes: 400 * mib, residueBytes: mib }] },
    ],
    [
      "a sleeper's",
      { occupants: [{ podUid: 'p', state: 'asleep', awakeBytes: mib, residueBytes: 400 * mib }] },
    ],
    ["an occupant's first", { occupants: [{ podUid: 'p', state: 'asleep', awakeBytes: mib }] }],
  ])('is in its turn bytes that are %s', (_what, change) => {
    const occupants = [{ podUid: 'p', state: 'asleep', awakeBytes: mib, residueBytes: mib }];
    const before = 'occupants' in change ? stored(withStatus({ occupants })) : there;
    const soon = writes(withStatus(change), [before], { writtenAtMs: { 'gpu-n1-0': 9_000 } });
    expect(soon).toEqual({ writes: [], againMs: 14_000 });
  });

  it('is bytes of each occupant for itself, and such as were not known', () => {
    const occupant = (podUid: string, more: object) => ({ podUid, state: 'asleep', ...more });
    const soon = (before: object[], after: object[]) =>
      writes(withStatus({ occupants: after }), [stored(withStatus({ occupants: before }))], {
        writtenAtMs: { 'gpu-n1-0': 9_000 },
      }).againMs;
    const still = occupant('b', { awakeBytes: mib, residueBytes: mib });
    const before = occupant('a', { awakeBytes: mib, residueBytes: mib });
    expect(soon([before, still], [before, still])).toBeNull();
    expect(soon([before, still], [{ ...before, awakeBytes: 900 * mib }, still])).toBe(14_000);
    expect(soon([before, still], [{ ...before, residueBytes: 900 * mib }, still])).toBe(14_000);
    expect(soon([occupant('a', {}), still], [before, still])).toBe(14_000);
  });

  it('is nothing for occupants in another order, or of two whose bytes changed places by little', () => {
    const occupant = (podUid: string) => ({ podUid, state: 'asleep', awakeBytes: mib });
    const before = stored(withStatus({ occupants: [occupant('b'), occupant('a'), occupant('c')] }));
    const now = withStatus({ occupants: [occupant('c'), occupant('b'), occupant('a')] });
    expect(writes(now, [before])).toEqual({ writes: [], againMs: null });
  });

  it.each([
    ['index', { index: 5 }],
    ['node', { nodeName: 'n9' }],
    ['UUID', { uuid: 'GPU-z' }],
  ])('is the object when its %s differs', (_what, change) => {
    const changed = { ...there, spec: { ...there.spec, ...change } };
    expect(parts(writes(desired!, [changed]))).toEqual(['object']);
  });

  it('is memory that is not known any more, not 0', () => {
    const { memory: _, ...unknown } = desired!.status;
    const { writes: made } = writes({ ...desired!, status: unknown });
    expect(made).toHaveLength(1);
    expect(made[0]!.body.status).not.toHaveProperty('memory');
  });

  it('is nothing for what others own', () => {
    const theirs = {
      ...there,
      spec: { ...there.spec, bindings: [] },
      status: { ...there.status, conditions: [{ type: 'AgentReachable' }] },
    } as unknown as GpuObject;
    expect(writes(desired!, [theirs]).writes).toEqual([]);
  });
});
