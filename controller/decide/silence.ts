/** Nodes and agents that cannot be heard: noticed by this process' own clock, told by a condition of each GPU. */
import { apiVersion } from '#api/crd.ts';
import { labels } from '#proto/names.ts';
import { paths } from './api-paths.ts';
import type { ClusterView, GpuBook } from './cluster-view.ts';
import { conditionTime } from './conditions.ts';
import type { Effect } from './effects.ts';
import { conditionStatus, isTerminating } from './kubernetes.ts';
import { components } from './settings.ts';
import type { Memory, Snapshot } from './snapshot.ts';

/** What was silent before and still is keeps its first moment; the rest is forgotten. */
function stillSilent(before: ReadonlyMap<string, number>, silent: Iterable<string>, nowMs: number) {
  return new Map([...silent].map((name) => [name, before.get(name) ?? nowMs]));
}

/** Engines that failed and have not been up since; a Model must not seem to recover with each attempt. */
function stillFailed(before: ReadonlyMap<string, string>, snapshot: Snapshot): Map<string, string> {
  const failed = new Map<string, string>();
  for (const gpu of snapshot.gpus.values()) {
    for (const { podUid, state, message } of gpu.status?.occupants ?? []) {
      if (state === 'failed') failed.set(podUid, message ?? 'the engine failed to start');
      else if ((state === 'waiting' || state === 'booting') && before.has(podUid))
        failed.set(podUid, before.get(podUid)!);
    }
  }
  return failed;
}

/** The memory after a look at the snapshot. */
export function remember(memory: Memory, snapshot: Snapshot, nowMs: number): Memory {
  const gpuNodes = new Set([...snapshot.gpus.values()].map(({ spec }) => spec.nodeName));
  const isReady = (name: string) =>
    conditionStatus(snapshot.nodes.get(name)?.status?.conditions, 'Ready') === 'True';
  const heard = new Set(
    [...snapshot.ownPods.values()]
      .filter(
        (pod) =>
          pod.metadata.labels?.[labels.component] === components.agent &&
          !isTerminating(pod) &&
          conditionStatus(pod.status?.conditions, 'Ready') === 'True',
      )
      .map((pod) => pod.spec?.nodeName ?? ''),
  );
  const deadNodes = [...gpuNodes].filter((name) => !isReady(name));
  const silentAgents = [...gpuNodes].filter((name) => !isReady(name) || !heard.has(name));
  return {
    ...memory,
    engineFailures: stillFailed(memory.engineFailures, snapshot),
    nodeSilentSince: stillSilent(memory.nodeSilentSince, deadNodes, nowMs),
    agentSilentSince: stillSilent(memory.agentSilentSince, silentAgents, nowMs),
  };
}

interface Reachable {
  status: 'True' | 'False';
  reason: string;
  message: string;
}

function reachable(view: ClusterView, node: string): Reachable {
  if (!view.silentNodes.has(node)) {
    return { status: 'True', reason: 'AgentReady', message: `the agent on ${node} is ready` };
  }
  return view.deadNodes.has(node)
    ? {
        status: 'False',
        reason: 'NodeNotReady',
        message: `node ${node} is not ready: its GPUs cannot be seen`,
      }
    : {
        status: 'False',
        reason: 'AgentNotReady',
        message: `no agent is ready on ${node}: its GPUs cannot be seen`,
      };
}

/** The condition AgentReachable of each GPU and, where it is False, the Unknown that follows from it. */
export function reachableEffects(view: ClusterView, memory: Memory): Effect[] {
  return view.books.flatMap((book) => {
    const wanted = reachable(view, book.node);
    const found = book.object.status?.conditions?.find(({ type }) => type === 'AgentReachable');
    const isSame = found?.status === wanted.status && found.reason === wanted.reason;
    // Silent, but not yet for long: nothing is said either way.
    const undecided = wanted.status === 'True' && memory.agentSilentSince.has(book.node);
    return isSame || undecided ? [] : [reachableEffect(view, book, wanted, found)];
  });
}

function reachableEffect(
  view: ClusterView,
  book: GpuBook,
  wanted: Reachable,
  found: { status: string; lastTransitionTime: string } | undefined,
): Effect {
  const condition = {
    type: 'AgentReachable',
    ...wanted,
    lastTransitionTime: conditionTime(found, wanted.status, view.nowMs),
  };
  const unknown = { health: 'Unknown', healthReason: 'AgentUnreachable', healthMessage: wanted.message };
  return {
    type: 'apply',
    kind: 'gpus',
    path: `${paths.gpu(book.name)}/status`,
    object: {
      apiVersion,
      kind: 'GPU',
      metadata: { name: book.name, uid: book.object.metadata.uid },
      status: { conditions: [condition], ...(wanted.status === 'False' && unknown) },
    },
    because: wanted.message,
    announce: [
      {
        type: wanted.status === 'True' ? 'Normal' : 'Warning',
        reason: wanted.reason,
        message: wanted.message,
        regarding: { apiVersion, kind: 'GPU', name: book.name, uid: book.object.metadata.uid ?? '' },
      },
    ],
  };
}
