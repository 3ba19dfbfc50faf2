/** What breaks, what is said about it, and how it comes back. */
import { describe, expect, it } from 'vitest';
import { fetchRetryMs } from '../../../controller/decide/fetch.ts';
import type { Node, Pod } from '../../../controller/decide/kubernetes.ts';
import { replaceAfterMs } from '../../../controller/decide/rollout.ts';
import { serviceName } from '../../../proto/names.ts';
import { agentPod, at, gpu, model } from './builders.ts';
import { PlainCluster } from './plain-cluster.ts';

const oneModel = (gpus = [gpu('n1', 0)]) => new PlainCluster({ gpus, models: [model('a')] });
const warningsOf = (cluster: PlainCluster) =>
  cluster.log.flatMap(({ announce }) => announce ?? []).filter(({ type }) => type === 'Warning');

/** Up to the moment when the pod exists and nothing has been heard of it. */
function created(cluster = oneModel()): { cluster: PlainCluster; pod: Pod } {
  cluster.settle();
  cluster.fetched();
  cluster.settle();
  return { cluster, pod: cluster.pods()[0]! };
}

describe('a pod that does not come up', () => {
  type Status = NonNullable<Pod['status']>;
  const engine = (state: object, more: object = {}): Status => ({
    phase: 'Pending',
    containerStatuses: [{ name: 'engine', ready: false, state, ...more }],
  });
  const failures: [string, Status, { reason: string; message: string }][] = [
    [
      'for an image that is missing',
      engine({ waiting: { reason: 'ErrImagePull', message: 'not found' } }),
      { reason: 'ImagePullBackOff', message: 'container engine: not found' },
    ],
    [
      'for the back-off after that, by the same reason',
      engine({ waiting: { reason: 'ImagePullBackOff', message: 'Back-off pulling' } }),
      { reason: 'ImagePullBackOff', message: 'container engine: Back-off pulling' },
    ],
    [
      'for a runtime that refuses it',
      engine(
        { waiting: { reason: 'CrashLoopBackOff' } },
        { lastState: { terminated: { exitCode: 128, reason: 'StartError', message: 'no GPU GPU-x' } } },
      ),
      { reason: 'CrashLoopBackOff', message: 'container engine: no GPU GPU-x' },
    ],
    [
      'for a sidecar that cannot be created',
      {
        phase: 'Pending',
        initContainerStatuses: [
          {
            name: 'sidecar',
            state: { waiting: { reason: 'CreateContainerConfigError', message: 'secret "k" not found' } },
          },
        ],
      },
      { reason: 'CreateContainerConfigError', message: 'container sidecar: secret "k" not found' },
    ],
    [
      'between two of many restarts',
      engine(
        { running: {} },
        { restartCount: 3, lastState: { terminated: { exitCode: 1, reason: 'Error' } } },
      ),
      { reason: 'Error', message: 'container engine ends again and again: Error (exit code 1)' },
    ],
  ];
  it.each(failures)('fails %s', (_name, status, expected) => {
    const { cluster, pod } = created();
    pod.status = status;
    cluster.settle();
    expect(cluster.phase()).toBe('Failed');
    expect(cluster.condition('Available')).toMatchObject({ status: 'False', ...expected });
    expect(warningsOf(cluster)).toMatchObject([{ reason: expected.reason }]);
    expect(cluster.plan()).toEqual([]);
  });

  it('fails by what its agent says of the engine', () => {
    const { cluster, pod } = created();
    cluster.engineIs(pod, 'failed', { message: 'engine exited with code 1: no such option' });
    cluster.settle();
    expect(cluster.phase()).toBe('Failed');
    expect(cluster.condition('Available')).toMatchObject({
      reason: 'EngineFailed',
      message: 'engine exited with code 1: no such option',
    });
  });

  it('stays failed while its engine tries again, with one warning, until it is up', () => {
    const { cluster, pod } = created();
    for (const attempt of [1, 2, 3]) {
      cluster.engineIs(pod, 'failed', { message: `failed ${attempt} times` });
      cluster.settle();
      cluster.engineIs(pod, 'booting');
      cluster.settle();
      expect(cluster.phase()).toBe('Failed');
    }
    expect(warningsOf(cluster)).toHaveLength(1);
    cluster.engineIs(pod, 'serving', { awakeBytes: 1 });
    cluster.settle();
    expect(cluster.phase()).toBe('Ready');
    cluster.engineIs(pod, 'booting', { awakeBytes: 1 });
    cluster.settle();
    expect(cluster.phase()).toBe('Staging');
  });

  it('because the API server takes no such pod is Failed in the API server’s words, until it does', () => {
    const cluster = oneModel();
    cluster.settle();
    cluster.fetched();
    cluster.refuse = { create: 'pods', message: 'RuntimeClass "nvidia" not found' };
    cluster.settle();
    expect(cluster.phase()).toBe('Failed');
    expect(cluster.condition('Available')).toMatchObject({
      status: 'False',
      reason: 'PodRefused',
      message: 'RuntimeClass "nvidia" not found',
    });
    cluster.refuse = null;
    cluster.comeUp();
    expect(cluster.phase()).toBe('Ready');
  });

  it('is replaced by a fixed spec without deleting the Model', () => {
    const { cluster, pod } = created();
    cluster.podStatus(pod, failures[0]![1]);
    cluster.settle();
    cluster.edit({ vllmImage: 'localhost/vllm:good' });
    cluster.settle();
    expect(cluster.pods().filter(({ metadata }) => !metadata.deletionTimestamp)).toHaveLength(1);
    expect(pod.metadata.deletionTimestamp).toBeDefined();
    cluster.podsEnd();
    cluster.comeUp();
    expect(cluster.phase()).toBe('Ready');
  });

  it('in a roll leaves the old one serving, and the next change ends it', () => {
    const cluster = oneModel();
    cluster.comeUp();
    const [old] = cluster.pods();
    cluster.edit({ vllmImage: 'localhost/none:1' });
    cluster.settle();
    const broken = cluster.pods().find((pod) => pod !== old)!;
    broken.status = failures[0]![1];
    cluster.settle();
    expect(cluster.phase()).toBe('Ready');
    expect(cluster.condition('Available')).toMatchObject({ status: 'True', reason: 'RollFailed' });
    expect(cluster.plan()).toEqual([]);
    cluster.edit({ vllmImage: 'localhost/good:1' });
    cluster.settle();
    expect(broken.metadata.deletionTimestamp).toBeDefined();
    expect(old!.metadata.deletionTimestamp).toBeUndefined();
    expect(cluster.pods()).toHaveLength(3);
  });

  it('is not failed while the scheduler has no room, but says so', () => {
    const { cluster, pod } = created();
    pod.status = {
      phase: 'Pending',
      conditions: [{ type: 'PodScheduled', status: 'False', message: '0/1 nodes: Insufficient cpu' }],
    };
    cluster.settle();
    expect(cluster.phase()).toBe('Staging');
    expect(cluster.condition('Available')).toMatchObject({
      reason: 'Starting',
      message: 'waits: 0/1 nodes: Insufficient cpu',
    });
  });

  it('that was evicted is made anew, no sooner than after its pause', () => {
    const { cluster, pod } = created();
    pod.metadata.creationTimestamp = new Date(cluster.nowMs).toISOString();
    pod.status = { phase: 'Failed', reason: 'Evicted' };
    cluster.settle();
    expect(pod.metadata.deletionTimestamp).toBeUndefined();
    cluster.nowMs += replaceAfterMs;
    cluster.settle();
    expect(pod.metadata.deletionTimestamp).toBeDefined();
    cluster.podsEnd();
    cluster.settle();
    expect(cluster.pods()).toHaveLength(1);
    expect(cluster.pods()[0]!.metadata.uid).not.toBe(pod.metadata.uid);
  });

  it('that was deleted by hand comes back under its name once it is gone', () => {
    const cluster = oneModel();
    cluster.comeUp();
    const [pod] = cluster.pods();
    pod!.metadata.deletionTimestamp = at(0);
    cluster.settle();
    expect(cluster.pods()).toHaveLength(1);
    cluster.podsEnd();
    cluster.settle();
    expect(cluster.pods().map(({ metadata }) => metadata.name)).toEqual([pod!.metadata.name]);
  });
});

describe('a fetch', () => {
  const failure = {
    error: {
      reason: 'Unauthorized',
      message: 'the hub answered 401 for org/a: set controller.huggingFaceToken',
    },
  };

  it('that fails makes the Model Failed with the converter’s own words', () => {
    const cluster = oneModel();
    cluster.settle();
    cluster.fetchesEnd(failure, 'Failed');
    cluster.settle();
    expect(cluster.phase()).toBe('Failed');
    expect(cluster.condition('Staged')).toMatchObject({
      status: 'False',
      reason: 'Unauthorized',
      message: failure.error.message,
    });
    expect(cluster.model().status?.conversion?.state).toBe('Failed');
    expect(warningsOf(cluster).map(({ reason }) => reason)).toEqual(['Unauthorized', 'Unauthorized']);
  });

  it('that no further attempt can mend is told at once', () => {
    const cluster = oneModel();
    cluster.settle();
    cluster.fetchAttemptEnds({ error: { reason: 'HubUnavailable', message: 'the hub answered 503' } });
    cluster.settle();
    expect(cluster.phase()).toBe('Staging');
    cluster.fetchAttemptEnds({ error: { reason: 'RevisionNotFound', message: 'set spec.revision' } });
    cluster.settle();
    expect(cluster.phase()).toBe('Failed');
    expect(cluster.condition('Staged')).toMatchObject({ reason: 'RevisionNotFound' });
  });

  it('that failed is mended by a fixed spec', () => {
    const cluster = oneModel();
    cluster.settle();
    cluster.fetchesEnd(failure, 'Failed');
    cluster.settle();
    cluster.edit({ modelName: 'org/right' });
    cluster.settle();
    expect(cluster.jobs()).toHaveLength(1);
    cluster.comeUp();
    expect(cluster.phase()).toBe('Ready');
  });

  it('that failed is tried again after a while', () => {
    const cluster = oneModel();
    cluster.settle();
    cluster.fetchesEnd(failure, 'Failed');
    cluster.settle();
    const uid = cluster.jobs()[0]!.metadata.uid;
    cluster.nowMs += fetchRetryMs - 1;
    cluster.settle();
    expect(cluster.jobs()[0]!.metadata.uid).toBe(uid);
    cluster.nowMs += 1;
    cluster.settle();
    expect(cluster.jobs()[0]!.metadata.uid).not.toBe(uid);
  });

  it('is shared by Models that want the same files on the same node', () => {
    const cluster = new PlainCluster({
      gpus: [gpu('n1', 0), gpu('n1', 1)],
      models: [model('a', { modelName: 'org/x' }), model('b', { modelName: 'org/x' })],
    });
    cluster.settle();
    expect(cluster.jobs()).toHaveLength(1);
    cluster.remove('default/a');
    cluster.settle();
    expect(cluster.jobs()).toHaveLength(1);
  });

  it('whose pod went before its result was read is run again', () => {
    const cluster = oneModel();
    cluster.settle();
    const [job] = cluster.jobs();
    job!.status = { succeeded: 1, conditions: [{ type: 'Complete', status: 'True' }] };
    cluster.settle();
    expect(cluster.jobs()[0]!.metadata.uid).not.toBe(job!.metadata.uid);
  });
});

describe('a node that dies', () => {
  const dies = (cluster: PlainCluster, name: string) => {
    (cluster.node(name) as Node).status = { conditions: [{ type: 'Ready', status: 'Unknown' }] };
    cluster.objects.ownPods.set(`greenthread/agent-${name}`, agentPod(name, false));
    for (const pod of cluster.pods())
      if (pod.status) pod.status.conditions = [{ type: 'Ready', status: 'False' }];
  };

  it('is given time, then its models move and its GPUs are Unknown', () => {
    const cluster = oneModel([gpu('n1', 0), gpu('n2', 0)]);
    cluster.comeUp();
    const [old] = cluster.pods();
    dies(cluster, 'n1');
    cluster.settle();
    expect(cluster.gpu('gpu-n1-0').status?.health).toBe('Healthy');
    expect(cluster.pods()).toEqual([old]);
    cluster.nowMs += 10_000;
    cluster.settle();
    cluster.fetched();
    cluster.settle();
    expect(cluster.gpu('gpu-n1-0').status).toMatchObject({
      health: 'Unknown',
      healthReason: 'AgentUnreachable',
    });
    expect(cluster.gpu('gpu-n1-0').status?.conditions).toMatchObject([
      { type: 'AgentReachable', status: 'False', reason: 'NodeNotReady' },
    ]);
    expect(cluster.pods().map(({ metadata }) => metadata.uid)).not.toContain(old!.metadata.uid);
    expect(cluster.bindings('gpu-n1-0')).toEqual([]);
    for (const pod of cluster.pods()) cluster.engineIs(pod, 'serving', { awakeBytes: 1 });
    cluster.settle();
    expect(cluster.model().status).toMatchObject({ node: 'n2', phase: 'Ready' });
    expect(cluster.plan()).toEqual([]);
  });

  it('asks to be looked at again just when its time is over', () => {
    const cluster = oneModel([gpu('n1', 0)]);
    cluster.comeUp();
    dies(cluster, 'n1');
    cluster.settle();
    expect(cluster.memory.nodeSilentSince.get('n1')).toBe(cluster.nowMs);
  });

  it('keeps its pods in the books when there is no other place', () => {
    const cluster = oneModel([gpu('n1', 0)]);
    cluster.comeUp();
    dies(cluster, 'n1');
    cluster.nowMs += 1;
    cluster.settle();
    cluster.nowMs += 10_000;
    cluster.settle();
    expect(cluster.pods()).toHaveLength(1);
    expect(cluster.condition('Placed')).toMatchObject({ status: 'False', reason: 'NoReadyNode' });
    expect(cluster.condition('Available')?.status).toBe('False');
    expect(cluster.bindings('gpu-n1-0')).toEqual(['default/a/0']);
  });

  it('does not hold up the deletion of a Model', () => {
    const cluster = oneModel([gpu('n1', 0)]);
    cluster.comeUp();
    cluster.remove();
    cluster.settle();
    dies(cluster, 'n1');
    cluster.settle();
    expect(cluster.objects.models.size).toBe(1);
    cluster.nowMs += 10_000;
    cluster.settle();
    expect(cluster.objects.models.size).toBe(0);
  });

  it('that comes back has an agent that can be heard again', () => {
    const cluster = oneModel([gpu('n1', 0)]);
    cluster.comeUp();
    dies(cluster, 'n1');
    cluster.settle();
    cluster.nowMs += 10_000;
    cluster.settle();
    (cluster.node('n1') as Node).status = { conditions: [{ type: 'Ready', status: 'True' }] };
    cluster.objects.ownPods.set('greenthread/agent-n1', agentPod('n1'));
    cluster.settle();
    expect(cluster.gpu('gpu-n1-0').status?.conditions).toMatchObject([
      { status: 'True', reason: 'AgentReady' },
    ]);
  });
});

describe('a GPU', () => {
  it('that turns Unhealthy is left, the old pod going when the new one serves', () => {
    const cluster = oneModel([gpu('n1', 0), gpu('n1', 1)]);
    cluster.comeUp();
    const status = cluster.gpu('gpu-n1-0').status!;
    status.health = 'Unhealthy';
    expect(cluster.settle().map(({ kind, type }) => `${type} ${kind}`)).not.toContain('delete jobs');
    expect(cluster.pods()).toHaveLength(2);
    for (const pod of cluster.pods()) cluster.engineIs(pod, 'serving', { awakeBytes: 1 });
    cluster.settle();
    cluster.podsEnd();
    cluster.settle();
    expect(cluster.model().status?.gpus).toBe('1');
    expect(cluster.bindings('gpu-n1-0')).toEqual([]);
  });

  it('that recovers does not draw back a model that has left it', () => {
    const cluster = oneModel([gpu('n1', 0), gpu('n2', 0)]);
    cluster.comeUp();
    const [old] = cluster.pods();
    cluster.gpu('gpu-n1-0').status!.health = 'Unhealthy';
    cluster.settle();
    cluster.fetched();
    cluster.settle();
    cluster.gpu('gpu-n1-0').status!.health = 'Healthy';
    const moved = cluster.pods().find((pod) => pod !== old)!;
    cluster.engineIs(moved, 'serving', { awakeBytes: 1 });
    cluster.settle();
    expect(old!.metadata.deletionTimestamp).toBeDefined();
    expect(cluster.model().status?.node).toBe('n2');
    cluster.podsEnd();
    cluster.settle();
    expect(cluster.pods()).toEqual([moved]);
    expect(cluster.bindings('gpu-n1-0')).toEqual([]);
  });

  it('that turns Unhealthy with no other place keeps its model, with a condition', () => {
    const cluster = oneModel();
    cluster.comeUp();
    const status = cluster.gpu('gpu-n1-0').status!;
    status.health = 'Unhealthy';
    status.healthReason = 'Xid79';
    cluster.settle();
    expect(cluster.pods()).toHaveLength(1);
    expect(cluster.phase()).toBe('Ready');
    expect(cluster.condition('Placed')).toMatchObject({
      reason: 'NoHealthyGPU',
      message: '0/1 GPUs fit: 1 is Unhealthy (Xid79)',
    });
  });

  it('that was deleted by hand gets its bindings back from the pods', () => {
    const cluster = oneModel();
    cluster.comeUp();
    const pods = cluster.pods();
    cluster.objects.gpus.delete('gpu-n1-0');
    cluster.settle();
    expect(cluster.pods()).toEqual(pods);
    cluster.objects.gpus.set('gpu-n1-0', gpu('n1', 0));
    cluster.settle();
    expect(cluster.bindings('gpu-n1-0')).toEqual(['default/a/0']);
    expect(cluster.pods()).toEqual(pods);
  });
});

describe('two Models of one name', () => {
  const two = () =>
    new PlainCluster({
      gpus: [gpu('n1', 0), gpu('n1', 1)],
      models: [
        model('a', {}, { namespace: 'x' }),
        model('a', {}, { namespace: 'y', creationTimestamp: at(500) }),
      ],
    });
  const pathsOf = (cluster: PlainCluster, namespace: string) => {
    const route = cluster.objects.routes.get(`${namespace}/${serviceName('a')}`)!;
    const { rules } = route.spec as { rules: { http: { paths: { path: string }[] } }[] };
    return rules[0]!.http.paths.map(({ path }) => path);
  };

  it('get the short path by age, both the long one', () => {
    const cluster = two();
    cluster.settle();
    expect(pathsOf(cluster, 'x')).toEqual(['/a', '/x/a']);
    expect(pathsOf(cluster, 'y')).toEqual(['/y/a']);
    expect(cluster.condition('RouteConflict', 'x/a')).toBeUndefined();
    expect(cluster.condition('RouteConflict', 'y/a')).toMatchObject({ status: 'True', reason: 'NameTaken' });
  });

  it('hand the short path over when the older goes', () => {
    const cluster = two();
    cluster.settle();
    cluster.remove('x/a');
    cluster.settle();
    expect(pathsOf(cluster, 'y')).toEqual(['/a', '/y/a']);
    expect(cluster.condition('RouteConflict', 'y/a')).toBeUndefined();
  });

  it('say where they are once the edge has an address', () => {
    const cluster = two();
    cluster.settle();
    for (const route of cluster.objects.routes.values())
      route.status = { loadBalancer: { ingress: [{ ip: '10.0.0.1' }] } };
    cluster.settle();
    expect([cluster.model('x/a').status?.url, cluster.model('y/a').status?.url]).toEqual([
      'http://10.0.0.1/a',
      'http://10.0.0.1/y/a',
    ]);
  });
});
