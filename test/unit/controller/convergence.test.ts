/**
 * Two phases, as in a simulator: faults and changes in any order, in which no serving pod may be given up for nothing;
 * then all is mended, and everything must come up, once each, with books that say so, and stay.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ModelSpecInput } from '../../../api/model.ts';
import { viewOf } from '../../../controller/decide/cluster-view.ts';
import type { Node, Pod } from '../../../controller/decide/kubernetes.ts';
import { podView } from '../../../controller/decide/pod-state.ts';
import type { Snapshot } from '../../../controller/decide/snapshot.ts';
import { labels } from '../../../proto/names.ts';
import { agentPod, gpu, model } from './builders.ts';
import { PlainCluster } from './plain-cluster.ts';

const nodes = ['n1', 'n2', 'n3'];
const names = ['a', 'b'];
const settled = 10_000;

const edits: Partial<ModelSpecInput>[] = [
  { dtype: 'float16' },
  { dtype: 'auto' },
  { vramPerGPU: '20Gi' },
  { parallelism: { tensor: 2, pipeline: 1 } },
  { parallelism: { tensor: 1, pipeline: 1 } },
  { replicas: 2 },
  { replicas: 1 },
  { fairness: { popular: true } },
  { fairness: { popular: false } },
  { modelName: 'org/other' },
  { nodeSelector: { zone: 'n2' } },
  { nodeSelector: {} },
];

const words = { commit: 'c', path: '/mnt/models/x/c', bytes: 1, files: 1, downloaded: 1 };

/** What may happen; each takes a number to choose by. */
const happenings: Record<string, (cluster: PlainCluster, choice: number) => void> = {
  edit: (cluster, choice) =>
    cluster.edit(edits[choice % edits.length]!, `default/${names[choice % names.length]}`),
  gpuFails: (cluster, choice) => setHealth(cluster, choice, 'Unhealthy'),
  gpuRecovers: (cluster, choice) => setHealth(cluster, choice, 'Healthy'),
  nodeDies: (cluster, choice) => setNode(cluster, nodes[choice % nodes.length]!, false),
  nodeReturns: (cluster, choice) => setNode(cluster, nodes[choice % nodes.length]!, true),
  timePasses: (cluster, choice) => {
    cluster.nowMs += (choice % 3) * settled;
  },
  fetchEnds: (cluster, choice) => cluster.fetchesEnd(words, choice % 4 === 0 ? 'Failed' : 'Complete'),
  podComesUp: (cluster, choice) =>
    onPod(cluster, choice, (pod) => cluster.engineIs(pod, 'serving', { awakeBytes: 1 })),
  podSleeps: (cluster, choice) =>
    onPod(cluster, choice, (pod) => cluster.engineIs(pod, 'asleep', { awakeBytes: 1 })),
  engineFails: (cluster, choice) =>
    onPod(cluster, choice, (pod) => cluster.engineIs(pod, 'failed', { message: 'x' })),
  podEvicted: (cluster, choice) =>
    onPod(cluster, choice, (pod) => cluster.podStatus(pod, { phase: 'Failed' })),
  podDeleted: (cluster, choice) =>
    onPod(cluster, choice, (pod) => {
      pod.metadata.deletionTimestamp = new Date(cluster.nowMs).toISOString();
    }),
  podsEnd: (cluster) => cluster.podsEnd(),
  imagesChange: (cluster, choice) => {
    cluster.settings.vllmImage = `localhost/vllm:${choice % 3}`;
  },
};

function setHealth(cluster: PlainCluster, choice: number, health: 'Healthy' | 'Unhealthy'): void {
  const all = [...cluster.objects.gpus.keys()];
  cluster.gpu(all[choice % all.length]!).status!.health = health;
}

function setNode(cluster: PlainCluster, name: string, ready: boolean): void {
  (cluster.node(name) as Node).status = {
    conditions: [{ type: 'Ready', status: ready ? 'True' : 'Unknown' }],
  };
  cluster.objects.ownPods.set(`greenthread/agent-${name}`, agentPod(name, ready));
}

/** Does something to a pod that may live: on a node that is ready, not already ending. */
function onPod(cluster: PlainCluster, choice: number, act: (pod: Pod) => void): void {
  const pods = names
    .flatMap((name) => cluster.pods(name))
    .filter(({ metadata }) => !metadata.deletionTimestamp);
  if (pods.length > 0) act(pods[choice % pods.length]!);
}

/** Replicas that have an available pod on a living node, by `model/replica`. */
function available(cluster: PlainCluster): Set<string> {
  const view = viewOf(
    cluster.objects as unknown as Snapshot,
    cluster.memory,
    cluster.settings,
    cluster.nowMs,
  );
  const found = names
    .flatMap((name) => cluster.pods(name))
    .filter((pod) => !pod.metadata.deletionTimestamp && podView(view, pod).isAvailable);
  return new Set(
    found.map(({ metadata }) => `${metadata.labels?.[labels.model]}/${metadata.labels?.[labels.replica]}`),
  );
}

function mend(cluster: PlainCluster): void {
  cluster.settings.vllmImage = 'localhost/vllm:1';
  for (const name of names)
    cluster.edit(
      {
        parallelism: { tensor: 1, pipeline: 1 },
        nodeSelector: {},
        fairness: { popular: false },
        replicas: 1,
        vramPerGPU: '10Gi',
      },
      `default/${name}`,
    );
  for (const key of [...cluster.objects.gpus.keys()].keys()) setHealth(cluster, key, 'Healthy');
  for (const name of nodes) setNode(cluster, name, true);
  for (let round = 0; round < 6; round += 1) {
    cluster.nowMs += 15 * 60_000;
    cluster.settle();
    cluster.fetchesEnd(words);
    cluster.settle();
    for (const name of names)
      for (const pod of cluster.pods(name))
        if (pod.status?.phase !== 'Failed') cluster.engineIs(pod, 'asleep', { awakeBytes: 1 });
    cluster.settle();
    cluster.podsEnd();
  }
}

function newCluster(): PlainCluster {
  const cluster = new PlainCluster({
    gpus: nodes.flatMap((name) => [gpu(name, 0), gpu(name, 1)]),
    models: names.map((name) => model(name, { vramPerGPU: '10Gi' })),
  });
  for (const name of nodes) cluster.node(name).metadata.labels = { zone: name };
  cluster.settle();
  return cluster;
}

const script = fc.array(
  fc.record({ what: fc.constantFrom(...Object.keys(happenings)), choice: fc.nat(1_000) }),
  { maxLength: 25 },
);

describe('whatever happens', () => {
  it('no serving pod is given up for nothing, and in the end every replica is up, once', () => {
    fc.assert(
      fc.property(script, (events) => {
        const cluster = newCluster();
        for (const { what, choice } of events) {
          happenings[what]!(cluster, choice);
          const before = available(cluster);
          cluster.settle();
          const wanted = names.flatMap((name) =>
            Array.from(
              { length: cluster.model(`default/${name}`).spec.replicas },
              (_, replica) => `${name}/${replica}`,
            ),
          );
          const after = available(cluster);
          for (const key of before)
            if (wanted.includes(key)) expect([what, key, after.has(key)]).toEqual([what, key, true]);
        }
        mend(cluster);
        for (const name of names) {
          expect(cluster.phase(`default/${name}`)).toBe('Sleeping');
          expect(cluster.pods(name)).toHaveLength(1);
          const bound = [...cluster.objects.gpus.keys()]
            .flatMap((key) => cluster.bindings(key))
            .filter((key) => key === `default/${name}/0`);
          expect(bound).toHaveLength(1);
        }
        expect(cluster.plan()).toEqual([]);
      }),
      { numRuns: 100, seed: 20_261_124 },
    );
  });
});
