/** The real vLLM in model pods of the development cluster, as clients and a node's root see it. */
import { paths } from '#proto/names.ts';
import { installChart } from '../../hack/installation/chart.ts';
import { downCluster, upCluster } from '../../hack/installation/cluster.ts';
import { startHub } from '../../hack/installation/hub.ts';
import { bringVllm, occupyGpu, publishRandomModel, vllmPython } from '../../hack/installation/vllm.ts';
import { edgeAddress } from '../../hack/nodes/places.ts';
import { client, onNode, type PodObject, podsOf, until } from '../cluster/harness/cluster.ts';
import { greedy } from '../contract/engine/conformance-subject.ts';
import { weightsBytesOf } from './real-engine.ts';

const gpu = 'quadro-p2000:1';
/**
 * Of its 5 GiB, so that 3.3 GiB are left: one engine awake (1.8 GiB, 0.25 GiB kept free beside it) and another asleep (0.6 GiB, 1.5 GiB
 * until that was measured), but not two awake.
 */
const occupiedMiB = 1_700;
export const node = 'n1';
/** Host memory for staged weights and images, MB: two Models of 1.2 GB, twice. */
const pinnedMemoryMB = 6_000;
/** Longest silence of a client's connection: a boot of the other Model and its own, ms. */
const silenceMsMax = 900_000;

export interface Upstream {
  id: string;
  weightsBytes: number;
}

/**
 * Cluster, hub, chart, and two random models of 1.2 GB.
 * @returns the models, the image and what ends it all
 */
export async function prepare(): Promise<{
  upstreams: [Upstream, Upstream];
  image: string;
  end: () => Promise<unknown>;
}> {
  const python = await vllmPython();
  const publish = async (seed: number): Promise<Upstream> => {
    const id = `greenthread/random-${seed}`;
    return { id, weightsBytes: weightsBytesOf(await publishRandomModel(python, id, 1.2, seed)) };
  };
  const upstreams: [Upstream, Upstream] = [await publish(1), await publish(2)];
  const cluster = await upCluster(['--gpus', gpu]);
  Object.assign(process.env, cluster.env);
  await startHub(cluster);
  const image = await bringVllm(cluster, python, node);
  await occupyGpu(cluster, node, occupiedMiB);
  await installChart(cluster, {
    simulated: true,
    set: [`vllm.image=${image}`, `storage.pinnedMemoryMB=${pinnedMemoryMB}`],
  });
  return { upstreams, image, end: downCluster };
}

export const modelSpec = (upstream: Upstream) => ({
  modelName: upstream.id,
  dtype: 'float32',
  loadFormat: 'gthread',
  vramPerGPU: '2Gi',
  endpoints: ['chat_completions', 'completions'],
  fairness: { minRuntime: '1s', maxWaitTime: '1s' },
  // Streams are frozen at once, not waited for.
  sleep: { idleTimeout: '1h', drainTimeout: '0s' },
  frontDoor: { maxWait: '15m' },
  extraArgs: ['--enforce-eager', '--max-model-len=2048'],
  // Without a request an engine's start gets what everything else on a machine leaves of its cores.
  resources: { requests: { cpu: '700m' } },
});

interface Streaming {
  /** Ids of the tokens that came. */
  ids: number[];
  finishReason: string | null;
  done: Promise<void>;
}

/** A greedy completion by stream at the edge. */
export async function stream(model: string, prompt: string, tokens: number): Promise<Streaming> {
  const response = await fetch(`http://${edgeAddress}/${model}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt, max_tokens: tokens, stream: true, ...greedy }),
    signal: AbortSignal.timeout(silenceMsMax),
  });
  if (response.status !== 200) throw new Error(`${model}: ${response.status} ${await response.text()}`);
  const streaming: Streaming = { ids: [], finishReason: null, done: Promise.resolve() };
  streaming.done = read(response, streaming);
  streaming.done.catch(() => {}); // told to whoever awaits it
  return streaming;
}

async function read(response: Response, streaming: Streaming): Promise<void> {
  let rest = '';
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    const events = (rest + chunk).split('\n\n');
    rest = events.pop()!;
    for (const data of events.map((event) => event.replace(/^data: /, ''))) {
      if (data === '[DONE]') return;
      if (!data.startsWith('{')) continue;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new Error(data);
      streaming.ids.push(...(parsed.choices[0]?.token_ids ?? []));
      streaming.finishReason = parsed.choices[0]?.finish_reason ?? streaming.finishReason;
    }
  }
  throw new Error('the stream ended without [DONE]');
}

/** The ids of a whole greedy answer. */
export async function answer(model: string, prompt: string, tokens = 24): Promise<number[]> {
  const whole = await stream(model, prompt, tokens);
  await whole.done;
  return whole.ids;
}

/** What the front door says of its model: sleeping, serving, … */
export async function stateOf(model: string): Promise<string> {
  const response = await fetch(`http://${edgeAddress}/${model}/status`);
  return ((await response.json()) as { state: string }).state;
}

/** The one pod of a Model. */
export async function podOf(model: string): Promise<PodObject> {
  const [pod, ...others] = await podsOf(model);
  if (!pod || others.length > 0) throw new Error(`${model} has ${pod ? others.length + 1 : 0} pods`);
  return pod;
}

/** Reasons of the Events of a Model's pod. */
export async function podEvents(model: string): Promise<string[]> {
  const { metadata } = await podOf(model);
  const { items } = await (await client()).list<{ reason: string } & PodObject>(
    '/api/v1/namespaces/default/events',
    { fieldSelector: `involvedObject.uid=${metadata.uid}` },
  );
  return items.map(({ reason }) => reason);
}

/** What the engine itself answers at its socket, past agent and sidecar, to whoever is inside its pod. */
export async function atSocket(
  model: string,
  method: 'GET' | 'POST',
  path: string,
  body?: object,
): Promise<{ status: number; text: string }> {
  const socket = `${paths.podsOnNode}/${(await podOf(model)).metadata.uid}/engine.sock`;
  const json = body ? ['-H', 'content-type: application/json', '-d', JSON.stringify(body)] : [];
  const words = ['-sS', '--max-time', '30', '-X', method, '-w', '\n%{http_code}', '--unix-socket', socket];
  const said = await onNode(node, 'curl', ...words, ...json, `http://engine${path}`);
  const at = said.lastIndexOf('\n');
  return { status: Number(said.slice(at + 1)), text: said.slice(0, at) };
}

/** Process id, in the node's box, of the worker of a Model's engine. */
export async function workerOf(model: string): Promise<number> {
  const pod = await podOf(model);
  // Its cgroup names the pod: a process that gave itself a title has no environment to read any more.
  const script = `for p in $(grep -l '^VLLM::Worker' /proc/[0-9]*/comm 2>/dev/null); do
    d=\${p%/comm}; grep -q 'pod${pod.metadata.uid}' $d/cgroup && echo \${d#/proc/}; done; true`;
  return until(`the worker of ${model}`, async () => {
    const found = (await onNode(node, 'sh', '-c', script)).split('\n').filter((line) => line !== '');
    return found.length === 1 && Number(found[0]);
  });
}

/** A figure of /proc/<pid>/status, bytes. */
export async function statusBytes(pid: number, field: string): Promise<number> {
  const text = await onNode(node, 'cat', `/proc/${pid}/status`);
  const kib = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1];
  if (kib === undefined) throw new Error(`no ${field} in /proc/${pid}/status`);
  return Number(kib) * 1024;
}

/** What nvidia-smi says engines use of the GPU, bytes. */
export async function usedBytes(): Promise<number> {
  const words = ['--query-compute-apps=used_memory', '--format=csv,noheader,nounits'];
  const lines = (await onNode(node, '/run/gpu-sim/nvidia-smi', ...words)).split('\n');
  return (lines.reduce((sum, line) => sum + Number(line || 0), 0) - occupiedMiB) * 2 ** 20;
}

/** TCP ports on which something in a pod's network listens, whichever address. */
export async function listeningPorts(pid: number): Promise<number[]> {
  const text = await onNode(node, 'cat', `/proc/${pid}/net/tcp`, `/proc/${pid}/net/tcp6`);
  const ports = text
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter((words) => words[3] === '0A')
    .map((words) => Number.parseInt(words[1]!.split(':')[1]!, 16));
  return [...new Set(ports)].sort((a, b) => a - b);
}
