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
/** Phases of a Model whose engine has booted. */
const up = ['Ready', 'Serving', 'Sleeping'];
/** Conversion, and the imports of three Python processes on two busy cores, ms. */
const bootMsMax = 600_000;
/** Each look is a kubectl, and an engine that boots wants both cores, ms. */
const bootPollMs = 2_000;
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

const ingress = (model: string): Promise<string> =>
  field(`ingress gt-${model}`, '.status.loadBalancer.ingress[0].ip');

/** Asks as README.md does. @returns ids of the tokens of a greedy answer; empty when there was none */
async function answer(model: string, upstream: string, shown = true): Promise<string> {
  const { stdout } = await type(
    `curl -sS --max-time 110 http://$INGRESS/${model}/v1/chat/completions \\
  -H 'Content-Type: application/json' \\
  -d '{
    "model": "${upstream}",
    "messages": [{"role": "user", "content": "Hello!"}],
    "max_tokens": 24, "temperature": 0, "return_token_ids": true
  }'; echo`,
    { env: { INGRESS: await ingress(model) }, quiet: !shown },
  );
  return /"token_ids":\[([\d,]+)\]/.exec(stdout)?.[1] ?? '';
}

const answerOne = (shown = true): Promise<string> => answer('llama-one', 'greenthread/random-1', shown);
const answerTwo = (): Promise<string> => answer('llama-two', 'greenthread/random-2');

async function status(model: string, state: string): Promise<void> {
  const { stdout } = await type(`curl -sS http://$INGRESS/${model}/status; echo`, {
    env: { INGRESS: await ingress(model) },
  });
  check(`status says ${state}`, stdout.includes(`"state":"${state}"`), stdout);
}

/** Shows each line of the table when it is new, until both are up. @returns the phases that each Model was seen in */
async function watch(names: string[]): Promise<Map<string, string[]>> {
  const lines = new Set<string>();
  const phases = new Map(names.map((name): [string, string[]] => [name, []]));
  console.log('$ kubectl get models -A -w');
  await until(
    `${names.join(' and ')} are up`,
    names.length * bootMsMax,
    async () => {
      const { stdout } = await type('kubectl get models -A', { quiet: true });
      for (const line of stdout.split('\n').filter((each) => !lines.has(each))) {
        lines.add(line);
        console.log(line);
        const [, name = '', phase = ''] = line.split(/\s+/);
        // Without a phase yet its column is empty.
        if (/^[A-Z]/.test(phase) && phases.get(name)?.at(-1) !== phase) phases.get(name)?.push(phase);
      }
      return [...phases.values()].every((seen) => up.includes(seen.at(-1) ?? '')) || null;
    },
    bootPollMs,
  );
  return phases;
}

export async function deployAndConverge(): Promise<void> {
  title('Deploy two Models');
  await type(`cat ${manifest}`);
  const { exitCode } = await type(`kubectl apply -f ${manifest}`);
  check('both Models apply', exitCode === 0);

  title('Watch the models converge');
  remark('each converts (once for all time), then boots: 1 to 2 minutes on two cores, one after the other');
  for (const [name, seen] of await watch(['llama-one', 'llama-two'])) {
    const [converting, staging] = [seen.indexOf('Converting'), seen.indexOf('Staging')];
    check(`${name}: ${seen.join(' → ')}`, converting >= 0 && staging > converting, seen.join());
  }

  title('Watch the GPUs');
  await type('kubectl get gpus');
}

export async function takeTurns(): Promise<void> {
  title('Verify inference: a request wakes its model, the other one sleeps');
  const other = await answerTwo();
  check('llama-two answers', other !== '');
  await untilPhase('llama-one', ['Sleeping'], sleepMsMax);
  await status('llama-one', 'sleeping');
  const first = await answerOne();
  check('llama-one wakes and answers, with other weights other tokens', first !== '' && first !== other);
  await status('llama-one', 'serving');
  await untilPhase('llama-two', ['Sleeping'], sleepMsMax);
  await type('kubectl get models -A');
  check('llama-two answers after its sleep what it answered before', (await answerTwo()) === other);
  check('so does llama-one', (await answerOne()) === first);
}

/** Free bytes of a GPU once they rest: what is published while a wake runs is half-way. */
async function settled(gpu: string): Promise<number> {
  let last: number | undefined;
  const probe = async (): Promise<number | null> => {
    const before = last;
    last = (await available()).get(gpu) ?? 0;
    return last === before ? last : null;
  };
  const rests = await until(`AVAILABLE of ${gpu} rests`, sleepMsMax, probe, settleMs);
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

export async function updateLive(): Promise<void> {
  title('Update a Model: what needs no restart applies live');
  const uids = (): Promise<string> =>
    field('pods -l greenthread.ai/model=llama-one', '.items[*].metadata.uid');
  const before = await uids();
  const more = '["chat_completions","completions","tokenize"]';
  await type(`kubectl patch model llama-one --type merge -p '{"spec":{"endpoints":${more}}}'`);
  const env = { INGRESS: await ingress('llama-one') };
  const ask = `curl -sS http://$INGRESS/llama-one/tokenize -H 'Content-Type: application/json' -d '{"prompt":"Hello!"}'; echo`;
  const found = await until('the new endpoint answers', sleepMsMax, async () => {
    const { stdout } = await type(ask, { env, quiet: true });
    return stdout.includes('"tokens"') || null;
  });
  if (found) await type(ask, { env });
  check('the pod is the same', (await uids()) === before && before !== '');
}

export async function removeAndRedeploy(): Promise<void> {
  title('Delete a Model, redeploy it: neither download nor conversion');
  const tokens = await answerOne(false);
  const before = await downloads('greenthread/random-1');
  const { exitCode } = await type('kubectl delete model llama-one -n default');
  check('delete returns', exitCode === 0);
  await type(`kubectl apply -f ${manifest}`);
  await untilPhase('llama-one', up, bootMsMax, bootPollMs);
  check(`it is ${await phaseOf('llama-one')} again`, true);
  check('it answers the same', (await answerOne()) === tokens && tokens !== '');
  const after = await downloads('greenthread/random-1');
  check(`the redeploy downloaded ${after - before} files (the hub’s count)`, after === before);
}
