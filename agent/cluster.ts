/** The agent's side of the API server: what it watches and writes, whenever there is one. Nothing here is waited for. */
import type { KubernetesClient, KubernetesObject } from '#platform/kubernetes/client.ts';
import type { Watch } from '#platform/kubernetes/watch.ts';
import { errorText, type Log } from '#platform/log.ts';
import { createGpuPublisher, type GpuPublisher } from './act/publish-gpus.ts';
import type { GpuResourceFact } from './decide/arbiter/words.ts';
import type { GpuObject } from './decide/gpu-resources.ts';
import { gpuResourceFact, type PodObject } from './decide/resource-facts.ts';
import { nodeGpus, nodePods, watchNodeObjects } from './observe/node-objects.ts';

/** Credentials that are not there yet (a token not mounted, no kubeconfig) are looked for again after this, ms. */
const reconnectMs = 10_000;

export interface ClusterParts {
  node: string;
  connect(): Promise<KubernetesClient>;
  /** All model pods of this node, on every change. */
  onPods(pods: (KubernetesObject & PodObject)[]): void;
  /** All GPU resources of this node, on every change, and what the arbiter needs of them. */
  onGpus(resources: GpuObject[], facts: GpuResourceFact[]): void;
  publishWith(publisher: GpuPublisher): void;
  log: Log;
}

export interface Cluster {
  /** null until credentials were found. */
  client(): KubernetesClient | null;
  /** ms since each watch last heard of the API server; null before it first did. */
  watchAges(): Record<string, number | null>;
  close(): void;
}

/** Connects, for as long as it takes, then watches and publishes until closed. */
export function joinCluster(parts: ClusterParts): Cluster {
  const { node, log } = parts;
  const watches: Record<string, Watch> = {};
  let client: KubernetesClient | null = null;
  let complaint = '';
  let closed = false;
  let timer: NodeJS.Timeout | undefined;

  const begin = (made: KubernetesClient): void => {
    client = made;
    watches.pods = watchNodeObjects<KubernetesObject & PodObject>(made, nodePods(node), parts.onPods, log);
    watches.gpus = watchNodeObjects<GpuObject>(
      made,
      nodeGpus(node),
      (objects) => parts.onGpus(objects, objects.map(gpuResourceFact)),
      log,
    );
    parts.publishWith(createGpuPublisher({ client: made, nodeName: node, log }));
  };

  const dial = async (): Promise<void> => {
    try {
      const made = await parts.connect();
      if (closed) await made.close();
      else begin(made);
    } catch (error) {
      const text = errorText(error);
      if (text !== complaint) log.warn('no way to the API server, going on without', { error: text });
      complaint = text;
      if (!closed) timer = setTimeout(() => void dial(), reconnectMs);
    }
  };
  void dial();

  return {
    client: () => client,
    watchAges: () =>
      Object.fromEntries(Object.entries(watches).map(([name, watch]) => [name, watch.ageMs()])),
    close() {
      closed = true;
      clearTimeout(timer);
      for (const watch of Object.values(watches)) watch.stop();
      client?.close().catch(() => undefined);
    },
  };
}
