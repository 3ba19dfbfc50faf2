/** Two Models that cannot be awake together on n2's only GPU, and looks at both sides of the books. */
import { request } from 'undici';
import {
  applyModel,
  client,
  edgeUrl,
  type GpuObject,
  gpuFolder,
  gpus,
  type Occupant,
  podsOf,
  until,
  untilPhase,
} from '../harness/cluster.ts';
import type { Question } from './asking.ts';
import { inShell } from './node-shell.ts';

export const upstream = 'Qwen/Qwen2.5-0.5B-Instruct';
/** The node with one T4 and nothing else of the cluster. */
export const node = 'n2';
const MiB = 2 ** 20;

/** Two of these do not fit on a T4 (15 GiB). */
export const halfAndMore = '9Gi';

/** A Model on the T4 that gives way soon: seconds would only make the suite longer. */
export const onT4 = (given: { fairness?: object; sleep?: object } = {}) => ({
  modelName: upstream,
  product: 'Tesla-T4',
  vramPerGPU: halfAndMore,
  fairness: { minRuntime: '500ms', maxWaitTime: '200ms', ...given.fairness },
  sleep: { idleTimeout: '10m', drainTimeout: '2s', ...given.sleep },
});

export const atEdge = (name: string, more: Partial<Question> = {}): Question => ({
  url: edgeUrl(name),
  model: upstream,
  ...more,
});

/** Applies Models one after the other and waits until each has booted. */
export async function deploy(models: Record<string, object>): Promise<void> {
  for (const [name, spec] of Object.entries(models)) await applyModel(name, spec);
  for (const name of Object.keys(models)) await untilPhase(name, ['Ready', 'Serving', 'Sleeping']);
  // The edge follows its Ingress a moment later.
  for (const name of Object.keys(models)) {
    await until(`the edge knows ${name}`, async () => {
      const { statusCode, body } = await request(`${edgeUrl(name)}/status`);
      await body.dump();
      return statusCode === 200;
    });
  }
}

export interface Status {
  state: string;
  bootReady: boolean;
  queue: { inFlight: number; barriered: boolean };
  queued: number;
  agent: string;
  reason?: string;
  message?: string;
}

/** /status by a pod's own address: no edge, no Service in between. */
export async function statusAt(ip: string): Promise<Status> {
  const { statusCode, body } = await request(`http://${ip}:8000/status`, {
    headersTimeout: 5_000,
    bodyTimeout: 5_000,
  });
  if (statusCode !== 200) throw new Error(`/status answered ${statusCode}: ${await body.text()}`);
  return (await body.json()) as Status;
}

export async function ipOf(model: string): Promise<string> {
  return until(`${model}'s pod has an address`, async () => {
    const pods = await podsOf(model);
    return pods.at(-1)?.status?.podIP;
  });
}

export const untilStatus = (
  ip: string,
  what: string,
  holds: (status: Status) => boolean,
  msMax?: number,
): Promise<Status> => {
  return until(
    `${ip} ${what}`,
    async () => {
      const status = await statusAt(ip);
      if (!holds(status)) throw new Error(JSON.stringify(status));
      return status;
    },
    msMax,
  );
};

export async function gpuOf(nodeName: string, index = 0): Promise<GpuObject> {
  const found = (await gpus()).find(({ spec }) => spec.nodeName === nodeName && spec.index === index);
  if (!found) throw new Error(`no GPU ${index} on ${nodeName}`);
  return found;
}

/** Parameters of engines on a GPU (hack/engine/README.md). */
export const slowEngines = (nodeName: string, index: number, values: Record<string, number | boolean>) =>
  inShell(
    nodeName,
    `gpu-sim-set ${index} ${Object.entries(values)
      .map(([key, value]) => `engine.${key}=${value}`)
      .join(' ')}`,
  );

const engineDefaults = {
  bootSeconds: 3,
  tokensPerSecond: 50,
  wakeBaseMs: 300,
  sleepMs: 90,
  answerTokens: 32,
};

/** Engines and nvidia-smi of a GPU behave as they did before the test. */
export async function healGpu(nodeName: string, index: number): Promise<void> {
  await slowEngines(nodeName, index, engineDefaults);
  await inShell(nodeName, `gpu-sim-set ${index} fault= delayMs=0 recoveryAction=None`);
}

interface Driver {
  usedBytes: number;
  freeBytes: number;
  /** Bytes of each pod's processes on this GPU. */
  pods: Map<string, number>;
}

/** What nvidia-smi says on the node, with each process' pod from its control group. */
export async function driverOf(nodeName: string, uuid: string): Promise<Driver> {
  const text = await inShell(
    nodeName,
    `nvidia-smi -i ${uuid} --query-gpu=memory.used,memory.free --format=csv,noheader,nounits; echo --
nvidia-smi -i ${uuid} --query-compute-apps=pid,used_gpu_memory --format=csv,noheader,nounits | while IFS=', ' read -r pid mib; do
echo "$mib $(cat /proc/$pid/cgroup 2>/dev/null | tr '\\n' ' ')"; done`,
  );
  const [memory, processes] = text.split('--\n');
  const [used, free] = memory!.trim().split(', ').map(Number);
  const pods = new Map<string, number>();
  for (const line of processes!.split('\n').filter(Boolean)) {
    const uid = /pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})/.exec(line)?.[1];
    const name = uid?.replaceAll('_', '-') ?? 'stranger';
    pods.set(name, (pods.get(name) ?? 0) + Number.parseInt(line, 10) * MiB);
  }
  return { usedBytes: used! * MiB, freeBytes: free! * MiB, pods };
}

/** Bytes that the books say a replica holds now; null: it is between two states. */
function saidBytes({ state, awakeBytes, residueBytes }: Occupant): number | null {
  if (state === 'serving' || state === 'draining') return awakeBytes ?? null;
  return state === 'asleep' ? (residueBytes ?? 0) : null;
}

/**
 * Differences between GPU.status and nvidia-smi; null: the books are right.
 * @param options.moving replicas between two states are let pass; otherwise nothing may move
 */
export async function booksFault(
  nodeName: string,
  index = 0,
  options: { moving?: boolean } = {},
): Promise<string | null> {
  const gpu = await gpuOf(nodeName, index);
  const driver = await driverOf(nodeName, gpu.spec.uuid);
  const { memory, occupants = [] } = gpu.status ?? {};
  // Free bytes are written when they moved by more.
  const near = (a: number, b: number, bytes = 64 * MiB) =>
    Math.abs(a - b) <= Math.max(bytes, 0.01 * (memory?.totalBytes ?? 0));
  if (!near(memory?.usedBytes ?? -1, driver.usedBytes))
    return `used: ${memory?.usedBytes} in the books, ${driver.usedBytes} by the driver`;
  if (!near(memory?.freeBytes ?? -1, driver.freeBytes))
    return `free: ${memory?.freeBytes} in the books, ${driver.freeBytes} by the driver`;
  for (const occupant of occupants) {
    const held = driver.pods.get(occupant.podUid) ?? 0;
    const said = saidBytes(occupant);
    const { model, state } = occupant;
    if (said === null && !options.moving) return `${model} is ${state}`;
    if (said !== null && !near(held, said))
      return `${model} is ${state}: ${said} in the books, ${held} by the driver`;
  }
  const known = new Set(occupants.map(({ podUid }) => podUid));
  const unknown = [...driver.pods].filter(([uid, bytes]) => bytes > 0 && !known.has(uid));
  return unknown.length > 0 ? `not in the books: ${JSON.stringify(unknown)}` : null;
}

export async function untilBooksAgree(nodeName: string, index = 0, msMax = 30_000): Promise<void> {
  let fault: string | null = null;
  await until(
    `the books of ${nodeName}'s GPU ${index} agree with nvidia-smi`,
    async () => {
      fault = await booksFault(nodeName, index);
      if (fault !== null) throw new Error(fault);
      return true;
    },
    msMax,
  );
}

interface Token {
  pid: number;
  model: string;
  awake: boolean;
  bytes: number;
  request: string;
  token: number;
}

/** Tokens of a GPU's log that were said without their bytes, asleep or out of order. */
export async function tokenFaults(nodeName: string, uuid: string, bytesMin: number): Promise<string[]> {
  const text = await inShell(nodeName, `cat ${gpuFolder(uuid)}/tokens.log`);
  const next = new Map<string, number>();
  const faults: string[] = [];
  for (const line of text.split('\n').filter(Boolean)) {
    const { request: id, token, awake: isAwake, bytes } = JSON.parse(line) as Token;
    if (!isAwake || bytes < bytesMin || token !== (next.get(id) ?? token)) faults.push(line);
    next.set(id, token + 1);
  }
  return faults;
}

/** Tokens in a GPU's log. */
export const tokenCount = async (nodeName: string, uuid: string): Promise<number> =>
  Number(await inShell(nodeName, `wc -l < ${gpuFolder(uuid)}/tokens.log`));

/** Deletes a pod. @param graceSeconds 0: at once, as `--force` does; null: the pod's own */
export async function deletePod(name: string, namespace: string, graceSeconds: number | null = null) {
  await (await client()).delete(
    `/api/v1/namespaces/${namespace}/pods/${name}`,
    graceSeconds === null ? {} : { gracePeriodSeconds: graceSeconds },
  );
}

/** Processes end while they are looked at: what a program says of that is no pid. */
const numbersOf = (text: string): number[] =>
  text
    .split('\n')
    .filter((line) => /^\d+$/.test(line))
    .map(Number);

/** Pids, in the node's box, of an engine of the pod; the launcher is another process. */
export async function enginePids(nodeName: string, podUid: string): Promise<number[]> {
  const pattern = podUid.replaceAll('-', '[-_]');
  const text = await inShell(
    nodeName,
    `for pid in $(grep -al vllm.entrypoints /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3); do
grep -qa launcher.py /proc/$pid/cmdline && continue; grep -q '${pattern}' /proc/$pid/cgroup 2>/dev/null && echo $pid; done; true`,
  );
  return numbersOf(text);
}

/** Pids, in the node's box, of processes of a pod whose command line holds the text. */
export async function podPids(nodeName: string, podUid: string, text: string): Promise<number[]> {
  const pattern = podUid.replaceAll('-', '[-_]');
  const found = await inShell(
    nodeName,
    `for pid in $(grep -al '${text}' /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3); do
grep -q '${pattern}' /proc/$pid/cgroup 2>/dev/null && echo $pid; done; true`,
  );
  return numbersOf(found);
}

export const kill9 = (nodeName: string, pids: number[]): Promise<string> => {
  if (pids.length === 0) throw new Error('there is nothing to kill');
  return inShell(nodeName, `kill -9 ${pids.join(' ')}`);
};
