/**
 * Keeps this node's GPU resources as the agent wants them: server-side apply of the agent's own fields, object and status
 * apart, only where something differs. Whatever fails is tried again, by then with what is wanted by then.
 */
import { type KubernetesClient, KubernetesError, type OwnerReference } from '#platform/kubernetes/client.ts';
import { errorText, type Log } from '#platform/log.ts';
import { apiVersion, fieldManagers } from '#proto/names.ts';
import { type DesiredGpu, type GpuObject, type GpuWrite, gpuWrites } from '../decide/gpu-resources.ts';

/** Bounds of the pause after a failure, ms. */
const backoffMs = { least: 500, most: 30_000 };
/** How long a resource that was written may be absent from the watch before it counts as deleted, ms. */
const unseenMsMax = 10_000;
/** How often the Node is looked at again, for its UID, ms: a node that was removed and came back has another one. */
const nodeAgeMsMax = 10 * 60_000;

export interface GpuPublisher {
  /**
   * Says what is wanted, and what there is as the watch shows it. Call it whenever either changes; nothing is written where
   * nothing differs.
   */
  want(desired: readonly DesiredGpu[], existing: readonly GpuObject[]): void;
  /** Whether everything wanted was there at last look; false before the first `want`. */
  settled(): boolean;
  stop(): void;
}

export interface GpuPublisherOptions {
  client: Pick<KubernetesClient, 'apply' | 'get'>;
  nodeName: string;
  log: Log;
  nowMs?: () => number;
}

/** What the API server answered to a write, until the watch shows it too. */
interface Written {
  object: GpuObject;
  atMs: number;
  seen: boolean;
}

const versionOf = ({ metadata }: GpuObject): bigint => {
  const { resourceVersion = '' } = metadata;
  return /^\d+$/.test(resourceVersion) ? BigInt(resourceVersion) : 0n;
};

/**
 * What there is: the watch's objects, but our own newer writes where it lags behind (resource versions of one resource are
 * comparable, KEP-5504). Entries of `written` that the watch has overtaken, or that were deleted, are dropped.
 */
export function freshest(
  watched: readonly GpuObject[],
  written: Map<string, Written>,
  nowMs: number,
): GpuObject[] {
  const objects = new Map(watched.map((object) => [object.metadata.name, object]));
  for (const [name, entry] of written) {
    const shown = objects.get(name);
    if (shown) entry.seen ||= shown.metadata.uid === entry.object.metadata.uid;
    const deleted = shown
      ? shown.metadata.uid !== entry.object.metadata.uid && versionOf(shown) > versionOf(entry.object)
      : entry.seen || nowMs - entry.atMs > unseenMsMax;
    if (deleted || (shown && versionOf(shown) >= versionOf(entry.object))) written.delete(name);
    else objects.set(name, entry.object);
  }
  return [...objects.values()];
}

/** @returns a publisher that writes from the first `want` on */
export function createGpuPublisher(options: GpuPublisherOptions): GpuPublisher {
  const { client, nodeName, log, nowMs = () => performance.now() } = options;
  const written = new Map<string, Written>();
  const statusAtMs: Record<string, number> = {};
  let wanted: { desired: readonly DesiredGpu[]; existing: readonly GpuObject[] } | null = null;
  let node: { owner: OwnerReference; atMs: number } | null = null;
  let running = false;
  let again = false;
  let stopped = false;
  let settled = false;
  let pauseMs = 0;
  let complaint = '';
  let timer: NodeJS.Timeout | undefined;

  /** The Node as owner. @throws KubernetesError when it cannot be read or does not exist */
  async function owner(mustBeFresh: boolean): Promise<OwnerReference> {
    if (node && !mustBeFresh && nowMs() - node.atMs < nodeAgeMsMax) return node.owner;
    const found = await client.get<{ metadata: { name: string; uid: string } }>(
      `/api/v1/nodes/${encodeURIComponent(nodeName)}`,
    );
    if (!found) {
      throw new KubernetesError(404, 'NotFound', `no Node ${nodeName}: set NODE_NAME to this node's name`);
    }
    const { name, uid } = found.metadata;
    node = { owner: { apiVersion: 'v1', kind: 'Node', name, uid }, atMs: nowMs() };
    return node.owner;
  }

  async function write({ name, part, body }: GpuWrite): Promise<void> {
    const path = `/apis/${apiVersion}/gpus/${name}${part === 'status' ? '/status' : ''}`;
    const object = await client.apply<GpuObject>(path, body, { fieldManager: fieldManagers.agent });
    const seen =
      written.get(name)?.seen === true && written.get(name)?.object.metadata.uid === object.metadata.uid;
    written.set(name, { object, atMs: nowMs(), seen });
    if (part === 'status') statusAtMs[name] = nowMs();
  }

  /** One pass over all that is wanted. @returns when to come again, ms; null: not before something changes */
  async function pass(): Promise<number | null> {
    const { desired, existing } = wanted!;
    const there = freshest(existing, written, nowMs());
    const names = new Set(there.map(({ metadata }) => metadata.name));
    // A resource that is gone may have gone with its Node: a new one needs the Node of today.
    const missing = desired.some(({ name }) => !names.has(name));
    const { writes, againMs } = gpuWrites(desired, there, {
      owner: desired.length > 0 ? await owner(missing) : null,
      nowMs: nowMs(),
      writtenAtMs: statusAtMs,
    });
    let failure: unknown = null;
    const failed = new Set<string>();
    for (const one of writes) {
      if (stopped || failed.has(one.name)) continue;
      try {
        await write(one);
      } catch (error) {
        // The others are still written: one refused resource must not hide the rest of the node.
        failed.add(one.name);
        failure = error;
        if (error instanceof KubernetesError && error.status === 404) written.delete(one.name);
      }
    }
    if (failure) throw failure;
    settled = true;
    return againMs;
  }

  async function run(): Promise<void> {
    running = true;
    let nextMs: number | null = null;
    try {
      nextMs = await pass();
      if (complaint) log.info('GPU resources are written again');
      complaint = '';
      pauseMs = 0;
    } catch (error) {
      settled = false;
      const text = errorText(error);
      if (text !== complaint) log.warn('GPU resources cannot be written, trying again', { error: text });
      complaint = text;
      pauseMs = Math.min(Math.max(pauseMs * 2, backoffMs.least), backoffMs.most);
      nextMs = nowMs() + pauseMs * (0.75 + Math.random() / 4);
    } finally {
      running = false;
    }
    if (stopped) return;
    // A change does not cut a pause short: an API server in trouble must not be hurried.
    if (again && pauseMs === 0) nextMs = nowMs();
    again = false;
    if (nextMs !== null) plan(nextMs);
  }

  function plan(atMs: number): void {
    clearTimeout(timer);
    timer = setTimeout(
      () => {
        timer = undefined;
        void run();
      },
      Math.max(0, atMs - nowMs()),
    );
  }

  return {
    want(desired, existing) {
      wanted = { desired, existing };
      if (running) again = true;
      else if (!stopped && pauseMs === 0) plan(nowMs());
    },
    settled: () => settled,
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}
