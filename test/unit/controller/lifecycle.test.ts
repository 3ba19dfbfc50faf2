/** A Model's life, from the apply to the end of its finalizer, as the plan sees it. */
import { describe, expect, it } from 'vitest';
import type { ModelSpecInput } from '../../../api/model.ts';
import type { Pod } from '../../../controller/decide/kubernetes.ts';
import { annotations } from '../../../proto/names.ts';
import { parseSettings } from '../../../proto/settings.ts';
import { agentPod, at, GiB, gpu, model } from './builders.ts';
import { PlainCluster } from './plain-cluster.ts';

const oneModel = (spec: Partial<ModelSpecInput> = {}, gpus = [gpu('n1', 0), gpu('n1', 1)]) =>
  new PlainCluster({ gpus, models: [model('a', spec, { finalizers: [] })] });
const kinds = (effects: { type: string; kind: string; path: string }[]) =>
  effects.map(({ type, kind, path }) => `${type} ${kind}${path.endsWith('/status') ? ' status' : ''}`);
const podNames = (cluster: PlainCluster, name = 'a') =>
  cluster.pods(name).map(({ metadata }) => metadata.name);
const settingsOf = (pod: Pod) => parseSettings(pod.metadata.annotations?.[annotations.settings] ?? '')!;

describe('the life of a Model', () => {
  it('goes finalizer, binding, fetch, pod, Ready, Serving, Sleeping, in this order', () => {
    const cluster = oneModel();
    expect(kinds(cluster.settle())).toEqual([
      'apply gpus',
      'apply models',
      'create jobs',
      'apply services',
      'apply routes',
      'apply models status',
    ]);
    expect(cluster.phase()).toBe('Staging');
    expect(cluster.bindings('gpu-n1-0')).toEqual(['default/a/0']);
    expect(cluster.condition('Staged')).toMatchObject({ status: 'False', reason: 'Fetching' });

    cluster.fetched();
    cluster.settle();
    const [pod] = cluster.pods();
    expect(cluster.condition('Staged')).toMatchObject({ status: 'True', reason: 'Fetched' });
    expect(cluster.phase()).toBe('Staging');

    cluster.engineIs(pod!, 'booting');
    cluster.settle();
    expect(cluster.phase()).toBe('Staging');
    cluster.engineIs(pod!, 'serving', { awakeBytes: 42.2 * GiB });
    cluster.settle();
    expect(cluster.phase()).toBe('Ready');
    expect(cluster.model().status).toMatchObject({
      readyReplicas: 1,
      servingReplicas: 1,
      node: 'n1',
      gpus: '0',
      vram: '42.2 GiB',
    });
    cluster.engineIs(pod!, 'serving', { awakeBytes: 42.2 * GiB, served: true });
    cluster.settle();
    expect(cluster.phase()).toBe('Serving');
    cluster.engineIs(pod!, 'asleep', { awakeBytes: 42.2 * GiB, residueBytes: GiB, served: true });
    cluster.settle();
    expect(cluster.phase()).toBe('Sleeping');
    expect(cluster.model().status).toMatchObject({
      readyReplicas: 1,
      servingReplicas: 0,
      sleepingReplicas: 1,
      residuePerGPU: GiB,
    });
    expect(cluster.condition('Available')).toMatchObject({
      status: 'True',
      message: '1 of 1 replicas take requests',
    });
  });

  it('wants nothing any more once it is steady', () => {
    const cluster = oneModel();
    cluster.comeUp();
    expect(cluster.plan()).toEqual([]);
    cluster.nowMs += 3_600_000;
    expect(cluster.plan()).toEqual([]);
  });

  it('reserves before it fetches, and fetches before it makes a pod', () => {
    const cluster = oneModel();
    const firsts = cluster.plan();
    expect(kinds(firsts)).toEqual(['apply gpus', 'apply models']);
    cluster.settle();
    expect(cluster.jobs()).toHaveLength(1);
    expect(cluster.pods()).toEqual([]);
  });

  it('reads the result of the fetch once and keeps it on the Job', () => {
    const cluster = oneModel();
    cluster.comeUp();
    cluster.objects.ownPods.clear();
    cluster.objects.ownPods.set('greenthread/agent-n1', agentPod('n1'));
    expect(cluster.plan()).toEqual([]);
  });

  it('ends with pods, then bindings, Service and route, then the finalizer', () => {
    const cluster = oneModel();
    cluster.comeUp();
    cluster.remove();
    expect(kinds(cluster.settle())).toContain('delete pods');
    expect(cluster.bindings('gpu-n1-0')).toEqual(['default/a/0']);
    expect(cluster.model().metadata.finalizers).toHaveLength(1);
    cluster.podsEnd();
    cluster.settle();
    expect(cluster.objects.models.size).toBe(0);
    expect(cluster.bindings('gpu-n1-0')).toEqual([]);
    expect([cluster.objects.services.size, cluster.objects.routes.size, cluster.objects.jobs.size]).toEqual([
      0, 0, 0,
    ]);
    expect(cluster.plan()).toEqual([]);
  });

  it('is Pending without a place, says why, and goes on when there is one', () => {
    const cluster = oneModel({ product: 'Tesla-T4' });
    cluster.settle();
    expect(cluster.phase()).toBe('Pending');
    expect(cluster.condition('Placed')).toMatchObject({
      status: 'False',
      reason: 'NoMatchingGPU',
      message: '0/2 GPUs fit: 2 have another product (NVIDIA-A40, want Tesla-T4)',
    });
    const warnings = cluster.log
      .flatMap(({ announce }) => announce ?? [])
      .filter(({ type }) => type === 'Warning');
    expect(warnings).toMatchObject([{ reason: 'NoMatchingGPU' }]);
    cluster.edit({ product: 'NVIDIA-A40' });
    cluster.comeUp();
    expect(cluster.phase()).toBe('Ready');
  });

  it('is Pending at zero replicas, keeps its route, frees its GPU', () => {
    const cluster = oneModel();
    cluster.comeUp();
    cluster.edit({ replicas: 0 });
    cluster.settle();
    cluster.podsEnd();
    cluster.settle();
    expect(cluster.phase()).toBe('Pending');
    expect(cluster.condition('Placed')?.reason).toBe('ScaledToZero');
    expect(cluster.bindings('gpu-n1-0')).toEqual([]);
    expect(cluster.objects.routes.size).toBe(1);
    expect(cluster.model().status?.replicas).toBe(0);
  });

  it('scales up onto another GPU and down again, each replica by itself', () => {
    const cluster = oneModel();
    cluster.comeUp();
    cluster.edit({ replicas: 2 });
    cluster.comeUp();
    expect(cluster.model().status).toMatchObject({ replicas: 2, readyReplicas: 2, gpus: '0,1', node: 'n1' });
    expect(cluster.model().status?.assignments).toHaveLength(2);
    cluster.edit({ replicas: 1 });
    cluster.settle();
    cluster.podsEnd();
    cluster.settle();
    expect(cluster.bindings('gpu-n1-1')).toEqual([]);
    expect(podNames(cluster)).toHaveLength(1);
  });

  it('is Failed only when all its replicas are', () => {
    const cluster = oneModel({ replicas: 2 });
    cluster.comeUp();
    const [first, second] = cluster.pods();
    cluster.engineIs(first!, 'failed', { message: 'engine exits 1' });
    cluster.engineIs(second!, 'asleep', { awakeBytes: 1 });
    cluster.settle();
    expect(cluster.phase()).toBe('Sleeping');
    cluster.engineIs(second!, 'failed', { message: 'engine exits 1' });
    cluster.settle();
    expect(cluster.phase()).toBe('Failed');
  });
});

describe('a change of the spec', () => {
  const live: [string, Partial<ModelSpecInput>][] = [
    ['fairness', { fairness: { priority: 7 } }],
    ['sleep', { sleep: { idleTimeout: '1m' } }],
    ['endpoints', { endpoints: ['chat_completions'] }],
    ['frontDoor', { frontDoor: { maxQueued: 9 } }],
  ];
  it.each(live)('of %s is applied to the living pod', (_field, spec) => {
    const cluster = oneModel();
    cluster.comeUp();
    const before = podNames(cluster);
    cluster.edit(spec);
    expect(kinds(cluster.settle())).toEqual(['patch pods', 'apply models status']);
    expect(podNames(cluster)).toEqual(before);
  });

  const rolling: [string, Partial<ModelSpecInput>][] = [
    ['dtype', { dtype: 'float16' }],
    ['extraArgs', { extraArgs: ['--max-model-len', '4096'] }],
    ['aliases', { aliases: ['gpt'] }],
    ['gpuMemoryUtilization', { gpuMemoryUtilization: '0.80' }],
    ['vramPerGPU', { vramPerGPU: '20Gi' }],
    ['resources', { resources: { limits: { memory: '64Gi' } } }],
    ['tolerations', { tolerations: [{ key: 'x', operator: 'Exists' }] }],
    ['serviceAccountName', { serviceAccountName: 'ml' }],
    ['staging', { staging: { pinned: true } }],
    ['vllmImage', { vllmImage: 'localhost/vllm:2' }],
    ['sidecarImage', { sidecarImage: 'localhost/sidecar:2' }],
    ['the keys Secret', { frontDoor: { apiKeysSecret: 'keys' } }],
  ];
  it.each(rolling)('of %s rolls: the old pod stays until the new one serves', (_field, spec) => {
    const cluster = oneModel();
    cluster.comeUp();
    const [old] = podNames(cluster);
    cluster.edit(spec);
    cluster.settle();
    expect(podNames(cluster)).toHaveLength(2);
    const fresh = cluster.pods().find(({ metadata }) => metadata.name !== old)!;
    cluster.engineIs(cluster.pods().find(({ metadata }) => metadata.name === old)!, 'asleep', {
      awakeBytes: 1,
    });
    cluster.engineIs(fresh, 'booting');
    cluster.settle();
    expect(cluster.phase()).toBe('Sleeping');
    expect(cluster.condition('Available')?.reason).toBe('Rolling');
    expect(cluster.condition('Available')?.message).toMatch(/a new pod comes up beside the old one$/);
    cluster.engineIs(fresh, 'waiting', { message: 'no room for its image' });
    cluster.settle();
    expect(cluster.condition('Available')).toMatchObject({
      reason: 'Rolling',
      message: expect.stringMatching(/beside the old one: no room for its image$/),
    });
    cluster.engineIs(fresh, 'serving', { awakeBytes: 1 });
    cluster.settle();
    cluster.podsEnd();
    cluster.settle();
    expect(podNames(cluster)).toEqual([fresh.metadata.name]);
    expect(cluster.condition('Available')?.reason).toBe('Available');
  });

  it('back to what it was, in the middle of a roll, ends the new pod', () => {
    const cluster = oneModel();
    cluster.comeUp();
    const before = podNames(cluster);
    cluster.edit({ dtype: 'float16' });
    cluster.settle();
    cluster.edit({ dtype: 'auto' });
    cluster.settle();
    cluster.podsEnd();
    cluster.settle();
    expect(podNames(cluster)).toEqual(before);
  });

  const fetching: [string, Partial<ModelSpecInput>][] = [
    ['modelName', { modelName: 'org/other' }],
    ['revision', { revision: 'v2' }],
  ];
  it.each(fetching)('of %s fetches first, then rolls', (_field, spec) => {
    const cluster = oneModel();
    cluster.comeUp();
    cluster.edit(spec);
    cluster.settle();
    expect(podNames(cluster)).toHaveLength(1);
    expect(cluster.condition('Staged')?.reason).toBe('Fetching');
    expect(cluster.phase()).toBe('Ready');
    cluster.fetchesEnd({
      commit: 'beef',
      path: '/mnt/models/org--other/beef',
      bytes: 1,
      files: 1,
      downloaded: 1,
    });
    cluster.settle();
    expect(podNames(cluster)).toHaveLength(2);
  });

  it('of parallelism places again and frees the old place after the roll', () => {
    const cluster = oneModel({}, [gpu('n1', 0), gpu('n2', 0), gpu('n2', 1)]);
    cluster.comeUp();
    cluster.edit({ parallelism: { tensor: 2, pipeline: 1 } });
    cluster.settle();
    expect([cluster.bindings('gpu-n1-0'), cluster.bindings('gpu-n2-0')].flat()).toHaveLength(2);
    cluster.fetched();
    cluster.settle();
    const fresh = cluster.pods().find(({ metadata }) => metadata.annotations?.[annotations.gpus] === '0,1')!;
    cluster.engineIs(fresh, 'serving', { awakeBytes: 1 });
    cluster.settle();
    cluster.podsEnd();
    cluster.settle();
    expect(cluster.bindings('gpu-n1-0')).toEqual([]);
    expect(cluster.model().status).toMatchObject({ node: 'n2', gpus: '0,1' });
  });

  it('to a place that does not exist leaves the old pod alone and says why', () => {
    const cluster = oneModel();
    cluster.comeUp();
    const before = podNames(cluster);
    cluster.edit({ parallelism: { tensor: 4, pipeline: 1 } });
    cluster.settle();
    expect(podNames(cluster)).toEqual(before);
    expect(cluster.phase()).toBe('Ready');
    expect(cluster.condition('Placed')).toMatchObject({ status: 'False', reason: 'NotEnoughGPUs' });
    expect(cluster.model().status).toMatchObject({ node: 'n1', gpus: '0' });
    expect(cluster.bindings('gpu-n1-0')).toEqual(['default/a/0']);
  });

  it('to popular where there is no room is not in effect until there is', () => {
    const cluster = new PlainCluster({
      gpus: [gpu('n1', 0)],
      models: [
        model('a', { vramPerGPU: '30Gi' }),
        model('b', { vramPerGPU: '30Gi' }, { creationTimestamp: at(500) }),
      ],
    });
    cluster.comeUp('a');
    cluster.edit({ fairness: { popular: true } });
    cluster.settle();
    expect(settingsOf(cluster.pods('a')[0]!).fairness.popular).toBe(false);
    expect(cluster.condition('Placed')).toMatchObject({ status: 'True', reason: 'NoRoomToPin' });
    cluster.remove('default/b');
    cluster.settle();
    cluster.podsEnd();
    cluster.settle();
    expect(settingsOf(cluster.pods('a')[0]!).fairness.popular).toBe(true);
    expect(cluster.gpu('gpu-n1-0').spec.bindings).toMatchObject([{ model: 'a', popular: true }]);
  });

  it("of the chart's images replaces pods one at a time, only while they sleep", () => {
    const cluster = new PlainCluster({
      gpus: [gpu('n1', 0), gpu('n1', 1)],
      models: [model('a'), model('b', {}, { creationTimestamp: at(500) })],
    });
    cluster.comeUp('a');
    cluster.comeUp('b');
    cluster.settings.vllmImage = 'localhost/vllm:2';
    cluster.settle();
    expect(cluster.condition('Outdated')).toMatchObject({ status: 'True', reason: 'NewImages' });
    expect(cluster.pods('a').length + cluster.pods('b').length).toBe(2);
    for (const name of ['a', 'b']) cluster.engineIs(cluster.pods(name)[0]!, 'asleep', { awakeBytes: 1 });
    cluster.settle();
    expect([cluster.pods('a').length, cluster.pods('b').length]).toEqual([2, 1]);
    const old = cluster.pods('a')[0]!.metadata.name;
    cluster.engineIs(cluster.pods('a')[1]!, 'serving', { awakeBytes: 1 });
    cluster.settle();
    expect(
      cluster.pods('a').find(({ metadata }) => metadata.name === old)?.metadata.deletionTimestamp,
    ).toBeDefined();
    cluster.podsEnd();
    cluster.settle();
    expect([cluster.pods('a').length, cluster.pods('b').length]).toEqual([1, 2]);
    expect(cluster.condition('Outdated')).toBeUndefined();
  });
});
