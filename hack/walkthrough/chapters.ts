/** The walk-through, chapter by chapter, each with the promises it makes. */
import { join } from 'node:path';
import { check, remark, title, type, until } from './shell.ts';
import { answered, ask } from './traffic.ts';

const manifests = join(import.meta.dirname, 'manifests');
/** Free bytes are published anew when they moved by more than this (64 MiB and 1 %, of an A40 here). */
const unpublishedBytesMax = 512 * 1024 * 1024;
/** Longest a Model may take from apply to awake on this machine, ms. */
const convergeMsMax = 180_000;

/** The header of a kubectl table, one space between columns. */
const header = (table: string): string => (table.split('\n')[0] ?? '').trim().split(/\s+/).join(' ');

/** Asks kubectl for one field; empty when it is not there. */
export async function field(resource: string, path: string): Promise<string> {
  const { stdout } = await type(`kubectl get ${resource} -o jsonpath='{${path}}'`, { quiet: true });
  return stdout.trim();
}

export const phaseOf = (model: string): Promise<string> => field(`model ${model}`, '.status.phase');

/** Waits until a Model is in one of the phases. */
export function untilPhase(
  model: string,
  phases: string[],
  msMax = convergeMsMax,
  pollMs?: number,
): Promise<string | null> {
  const probe = async (): Promise<string | null> => {
    const phase = await phaseOf(model);
    return phases.includes(phase) ? phase : null;
  };
  return until(`${model} becomes ${phases.join(' or ')}`, msMax, probe, pollMs);
}

/** Free VRAM of each GPU by name, bytes, as kubectl prints it. */
export async function available(): Promise<Map<string, number>> {
  const { stdout } = await type(
    `kubectl get gpus -o jsonpath='{range .items[*]}{.metadata.name}={.status.memory.freeBytes}{"\\n"}{end}'`,
    { quiet: true },
  );
  return new Map(
    stdout
      .split('\n')
      .filter((line) => line.includes('='))
      .map((line) => [line.split('=')[0]!, Number(line.split('=')[1])]),
  );
}

/** The GPU resource that a Model's first replica is on. */
export async function gpuOf(model: string): Promise<string> {
  const [node, gpus] = await Promise.all([
    field(`model ${model}`, '.status.node'),
    field(`model ${model}`, '.status.gpus'),
  ]);
  return `gpu-${node}-${gpus.split(',')[0]}`;
}

export async function deploy(): Promise<void> {
  title('Deploy a Model');
  await type(`cat ${join(manifests, 'llama-3-8b.yaml')}`);
  const { exitCode } = await type(`kubectl apply -f ${join(manifests, 'llama-3-8b.yaml')}`);
  check('the manifest applies as it stands', exitCode === 0);

  title('Multiple models in one file');
  const two = await type(`kubectl apply -f ${join(manifests, 'two-models.yaml')}`);
  check('both Models apply', two.exitCode === 0);
}

/** What `kubectl get models -A -w` may show one after the other. */
const phaseOrder = ['Pending', 'Converting', 'Staging', 'Ready', 'Serving', 'Sleeping'];

export async function converge(): Promise<void> {
  title('Watch the model converge');
  // The watch ends by itself once both are up; its output is what a person would see.
  const seen = await type(
    `timeout 170 bash -c 'set -o pipefail; kubectl get models -A -w | tee >(while read -r _ name phase _; do case "$name:$phase" in llama-3-8b:Ready|llama-3-8b:Serving) a=1;; whisper-turbo:Ready|whisper-turbo:Serving) b=1;; esac; [ "$a$b" = 11 ] && sleep 0.5 && pkill -P $$ kubectl; done)'; true`,
    { shown: 'kubectl get models -A -w' },
  );
  const phases = seen.stdout
    .split('\n')
    .filter((line) => line.includes('llama-3-8b'))
    .map((line) => line.trim().split(/\s+/)[2] ?? '')
    .filter((phase) => phaseOrder.includes(phase));
  const distinct = phases.filter((phase, at) => phase !== phases[at - 1]);
  const ordered = distinct.every(
    (phase, at) => at === 0 || phaseOrder.indexOf(phase) > phaseOrder.indexOf(distinct[at - 1]!),
  );
  check(
    `phases in order: ${distinct.join(' → ')}`,
    ordered && distinct.at(-1) === 'Ready',
    distinct.join(' → '),
  );
  await untilPhase('llama-3-8b', ['Ready', 'Serving']);
  await untilPhase('whisper-turbo', ['Ready', 'Serving']);
}

export async function running(): Promise<void> {
  title('What "running" looks like');
  const models = await type('kubectl get models -A');
  check(
    'its columns are as promised',
    header(models.stdout) === 'NAMESPACE NAME PHASE REPLICAS READY NODE GPUS VRAM/GPU',
    header(models.stdout),
  );
  title('Watch the GPUs');
  const gpus = await type('kubectl get gpus');
  check(
    'its columns are as promised',
    header(gpus.stdout) === 'NAME NODE INDEX PRODUCT MODE HEALTH AVAILABLE',
    header(gpus.stdout),
  );
  check('the GPUs in use say MODE inference', gpus.stdout.includes(' inference '), gpus.stdout);
}

/** Puts the model to sleep by a short idleTimeout, which applies live. @returns free bytes while it was awake */
async function fallAsleep(model: string, gpu: string): Promise<number> {
  remark('idleTimeout is 10m; here it becomes 2s, which applies without a new pod');
  const before = (await available()).get(gpu) ?? 0;
  await type(`kubectl patch model ${model} --type merge -p '{"spec":{"sleep":{"idleTimeout":"2s"}}}'`);
  await untilPhase(model, ['Sleeping'], 60_000);
  const after = await until(`AVAILABLE of ${gpu} grows when ${model} sleeps`, 20_000, async () => {
    const now = (await available()).get(gpu) ?? 0;
    return now > before + 1024 ** 3 ? now : null;
  });
  await type('kubectl get gpus');
  if (after !== null) check(`AVAILABLE of ${gpu} moved from ${before} to ${after} on sleep`, true);
  return before;
}

/** @returns the model's URL through the cluster's edge */
export async function inference(): Promise<string> {
  title('Verify inference');
  const found = await until('the Ingress has an address', 30_000, async () => {
    const { stdout } = await type(
      `kubectl get ingress -A -l greenthread.ai/model=llama-3-8b -o jsonpath='{.items[0].status.loadBalancer.ingress[0].ip}'`,
      { quiet: true },
    );
    return stdout === '' ? null : stdout;
  });
  const env = { INGRESS: found ?? '' };
  await type(
    `kubectl get ingress -A -l greenthread.ai/model=llama-3-8b -o jsonpath='{.items[0].status.loadBalancer.ingress[0].ip}'; echo`,
  );
  const url = `http://${found}/llama-3-8b`;
  const gpu = await gpuOf('llama-3-8b');
  const awakeFree = await fallAsleep('llama-3-8b', gpu);

  const asleep = await type('curl -sS http://$INGRESS/llama-3-8b/status; echo', { env });
  check(
    'status has the promised shape and says sleeping',
    asleep.stdout.startsWith(
      '{"model":"llama-3-8b","state":"sleeping","bootReady":true,"queue":{"inFlight":0,"barriered":false}',
    ),
    asleep.stdout,
  );
  await type(`kubectl patch model llama-3-8b --type merge -p '{"spec":{"sleep":{"idleTimeout":"10m"}}}'`);
  const before = (await available()).get(gpu) ?? 0;
  const nonce = `nonce-${process.pid.toString(16)}${Date.now().toString(16)}`;
  const chat = await type(
    `curl -sS http://$INGRESS/llama-3-8b/v1/chat/completions \\
  -H 'Content-Type: application/json' \\
  -d '{
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "messages": [{"role": "user", "content": "Hello! ${nonce}"}],
    "max_tokens": 128
  }'; echo`,
    { env },
  );
  check(
    'a request wakes the model and its answer carries the nonce',
    chat.stdout.includes(nonce),
    chat.stdout,
  );
  const awake = await type('curl -sS http://$INGRESS/llama-3-8b/status; echo', { env });
  check(
    'status now says serving',
    awake.stdout.startsWith('{"model":"llama-3-8b","state":"serving",'),
    awake.stdout,
  );
  await untilPhase('llama-3-8b', ['Serving'], 20_000);
  // Published within seconds of moving, half-way figures included: the one it was before the sleep is the last.
  const after = await until('AVAILABLE is again what it was awake', 20_000, async () => {
    const now = (await available()).get(gpu) ?? 0;
    return now <= awakeFree + unpublishedBytesMax ? now : null;
  });
  if (after !== null) check(`AVAILABLE of ${gpu} moved from ${before} to ${after} on wake`, true);
  return url;
}

export async function twoAwake(): Promise<void> {
  title('Two small Models awake on one GPU');
  await type(`kubectl apply -f ${join(manifests, 'small-models.yaml')}`);
  await untilPhase('qwen-small', ['Ready', 'Serving']);
  await untilPhase('bge-m3', ['Ready', 'Serving']);
  await type(
    `kubectl get gpus -o custom-columns='NAME:.metadata.name,AWAKE:.status.occupants[?(@.state=="serving")].model'`,
  );
  const shared = await until('two Models are awake on one GPU', 30_000, async () => {
    const { stdout } = await type(
      `kubectl get gpus -o jsonpath='{range .items[*]}{.metadata.name}:{range .status.occupants[?(@.state=="serving")]}{.model},{end}{"\\n"}{end}'`,
      { quiet: true },
    );
    return stdout.split('\n').find((line) => line.split(',').length > 2) ?? null;
  });
  if (shared) check(`awake together: ${shared}`, true);
}

export async function remove(url: string, downloads: () => Promise<number>): Promise<void> {
  title('Delete a Model');
  const before = await downloads();
  const { exitCode } = await type('kubectl delete model llama-3-8b -n default');
  check('delete returns', exitCode === 0);
  const { stdout } = await type('kubectl get pods,services,ingresses -A -l greenthread.ai/model=llama-3-8b');
  check('pod, Service and route are gone', stdout.trim() === '', stdout);
  await type('kubectl get gpus');

  title('Redeploy: the files are still there');
  await type(`kubectl apply -f ${join(manifests, 'llama-3-8b.yaml')}`);
  await untilPhase('llama-3-8b', ['Ready', 'Serving']);
  const again = await until('the redeployed Model answers', 30_000, async () => {
    const answer = await ask(url, 'meta-llama/Llama-3.1-8B-Instruct');
    return answered(answer) ? answer : null;
  });
  check('the redeployed Model serves', again !== null);
  const after = await downloads();
  check(`the redeploy downloaded ${after - before} files (the hub’s count)`, after === before);
}
