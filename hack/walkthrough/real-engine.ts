/** The deploy page played with a real vLLM on CPU, where that can play it; what it cannot is said with the reason. */
import { join } from 'node:path';
import { installChart } from '../installation/chart.ts';
import { type Cluster, upCluster } from '../installation/cluster.ts';
import { downloads, startHub } from '../installation/hub.ts';
import { bringVllm, occupyGpu, publishRandomModel, vllmPython } from '../installation/vllm.ts';
import { available, field, gpuOf, phaseOf, untilPhase } from './chapters.ts';
import { check, remark, title, type, until } from './shell.ts';

const manifest = join(import.meta.dirname, 'manifests/vllm-models.yaml');
/** With so much of it taken it holds one of the two awake and the other one asleep. */
const gpus = 'quadro-p2000:1';
const occupiedMiB = 1_700;
const gigabytes = 1.2;
/** Conversion, and the imports of three Python processes on two busy cores, ms. */
const bootMsMax = 600_000;
const sleepMsMax = 60_000;
/** A GPU's figures are published within seconds of moving, ms. */
const settleMs = 4_000;
/** Host memory for staged weights and images, MB. */
const pinnedMemoryMB = 6_000;
const GiB = 1024 ** 3;

const notPlayed = [
  'Whisper and other types of model: the weights are random, and only a Llama is made here',
  'tensor parallelism, the next image, dtype: each roll costs a boot of one to two minutes of CPU time',
  'two Models awake on one GPU: two engines with their weights and caches would fill this machine’s memory',
  'what an answer says: random weights say nothing; instead its tokens are compared, which shows that no weight changed',
];

/** Packages, models, cluster, image, chart. */
export async function prepare(): Promise<Cluster> {
  title('A real vLLM, a cluster on this machine');
  for (const reason of notPlayed) remark(`not played on a CPU: ${reason}`);
  const python = await vllmPython();
  for (const seed of [1, 2]) await publishRandomModel(python, `greenthread/random-${seed}`, gigabytes, seed);
  const cluster = await upCluster(['--gpus', gpus]);
  await startHub(cluster);
  const image = await bringVllm(cluster, python, 'n1');
  remark(
    'a program outside the cluster takes a third of the GPU, so that it holds one engine awake, not two',
  );
  await occupyGpu(cluster, 'n1', occupiedMiB);
  Object.assign(process.env, cluster.env);
  title('Install GreenThread');
  await installChart(cluster, {
    simulated: true,
    set: [`vllm.image=${image}`, `storage.pinnedMemoryMB=${pinnedMemoryMB}`],
  });
  await type('kubectl get gpus');
  return cluster;
}

/** Ids of the tokens of a greedy answer; empty when there was none. */
async function answer(model: string, shown = true): Promise<string> {
  const { stdout } = await type(
    `curl -sS --max-time 110 http://$INGRESS/${model}/v1/completions -H 'Content-Type: application/json' \\
  -d '{"prompt": "the quick brown fox", "max_tokens": 24, "temperature": 0, "return_token_ids": true}'; echo`,
    { env: { INGRESS: await ingress(model) }, quiet: !shown },
  );
  return /"token_ids":\[([\d,]+)\]/.exec(stdout)?.[1] ?? '';
}

const ingress = (model: string): Promise<string> =>
  field(`ingress gt-${model}`, '.status.loadBalancer.ingress[0].ip');

export async function deployAndConverge(): Promise<void> {
  title('Deploy two Models');
  await type(`cat ${manifest}`);
  const { exitCode } = await type(`kubectl apply -f ${manifest}`);
  check('both Models apply', exitCode === 0);
  title('Watch the models converge');
  remark('each converts (once for all time), then boots: 1 to 2 minutes on two cores, one after the other');
  for (const model of ['llama-one', 'llama-two']) {
    await untilPhase(model, ['Ready', 'Serving', 'Sleeping'], bootMsMax);
    await type('kubectl get models -A');
  }
  await type('kubectl get gpus');
}

export async function takeTurns(): Promise<void> {
  title('Verify inference: a request wakes its model, the other one sleeps');
  const before = await answer('llama-one');
  check('it answers', before !== '');
  const other = await answer('llama-two');
  check('so does the other one, with other weights other tokens', other !== '' && other !== before, other);
  await untilPhase('llama-one', ['Sleeping'], sleepMsMax);
  await type('kubectl get models -A');
  const again = await answer('llama-one');
  check('after its sleep it answers what it answered before', again === before, again);
  await type('curl -sS http://$INGRESS/llama-one/status; echo', {
    env: { INGRESS: await ingress('llama-one') },
  });
}

/** Free bytes of a GPU once they rest: what is published while a wake runs is half-way. */
async function settled(gpu: string): Promise<number> {
  let last: number | undefined;
  const rests = await until(`AVAILABLE of ${gpu} rests`, sleepMsMax, async () => {
    const before = last;
    last = (await available()).get(gpu) ?? 0;
    if (last === before) return last;
    await new Promise((resolve) => setTimeout(resolve, settleMs));
    return null;
  });
  return rests ?? 0;
}

export async function sleepWhenIdle(): Promise<void> {
  title('Sleep when idle: AVAILABLE grows');
  const gpu = await gpuOf('llama-one');
  const before = await settled(gpu);
  await type(`kubectl patch model llama-one --type merge -p '{"spec":{"sleep":{"idleTimeout":"2s"}}}'`);
  await untilPhase('llama-one', ['Sleeping'], sleepMsMax);
  const after = await until(`AVAILABLE of ${gpu} grows`, sleepMsMax, async () => {
    const now = (await available()).get(gpu) ?? 0;
    return now > before + GiB ? now : null;
  });
  await type('kubectl get gpus');
  if (after !== null) check(`AVAILABLE of ${gpu} moved from ${before} to ${after} on sleep`, true);
  await type(`kubectl patch model llama-one --type merge -p '{"spec":{"sleep":{"idleTimeout":"10m"}}}'`);
}

export async function removeAndRedeploy(): Promise<void> {
  title('Delete a Model, redeploy it: neither download nor conversion');
  const tokens = await answer('llama-one', false);
  const before = await downloads('greenthread/random-1');
  const { exitCode } = await type('kubectl delete model llama-one -n default');
  check('delete returns', exitCode === 0);
  await type(`kubectl apply -f ${manifest}`);
  await untilPhase('llama-one', ['Ready', 'Serving', 'Sleeping'], bootMsMax);
  check(`it is ${await phaseOf('llama-one')} again`, true);
  check('it answers the same', (await answer('llama-one')) === tokens && tokens !== '');
  const after = await downloads('greenthread/random-1');
  check(`the redeploy downloaded ${after - before} files (the hub’s count)`, after === before);
}
