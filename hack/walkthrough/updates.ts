/** The update table: one row for each field, its pod rolled or not, requests lost. */
import { field } from './chapters.ts';
import { check, title, type, until } from './shell.ts';
import { keepAsking } from './traffic.ts';

interface Update {
  field: string;
  patch: object;
  /** Does the change need a new pod? */
  rolls: boolean;
  /** The name in the request is about to change: these clients leave `model` out, which every engine takes. */
  unnamed?: boolean;
  /** What shows that a change without a new pod is in force. */
  applied?: (url: string) => Promise<boolean>;
}

const model = 'llama-3-8b';
const rollMsMax = 120_000;

const statusOf = async (url: string, path: string): Promise<number> => {
  const { stdout } = await type(
    `curl -s -o /dev/null -w '%{http_code}' -X POST -H 'Content-Type: application/json' -d '{"model":"meta-llama/Llama-3.1-8B-Instruct","prompt":"x"}' ${url}${path}`,
    { quiet: true },
  );
  return Number(stdout);
};

/**
 * The rows of the table, in its order. Settings that need no restart apply live.
 * @param nextEngine another engine image that the node has; null leaves that row out
 */
const updates = (nextEngine: string | null): Update[] => [
  {
    field: 'fairness',
    patch: { fairness: { minRuntime: '3s' } },
    rolls: false,
    applied: async () =>
      (await podField('.metadata.annotations.greenthread\\.ai/settings')).includes('"minRuntimeMs":3000'),
  },
  {
    field: 'sleep',
    patch: { sleep: { idleTimeout: '9m' } },
    rolls: false,
    applied: async () =>
      (await podField('.metadata.annotations.greenthread\\.ai/settings')).includes('"idleTimeoutMs":540000'),
  },
  { field: 'extraArgs', patch: { extraArgs: ['--max-model-len=4096'] }, rolls: true },
  {
    field: 'endpoints',
    patch: { endpoints: ['chat_completions', 'completions', 'tokenize'] },
    rolls: false,
    applied: async (url) => (await statusOf(url, '/tokenize')) === 200,
  },
  { field: 'dtype', patch: { dtype: 'float16' }, rolls: true },
  {
    field: 'parallelism',
    patch: { parallelism: { tensor: 2, pipeline: 1 }, vramPerGPU: '2Gi' },
    rolls: true,
  },
  ...(nextEngine === null ? [] : [{ field: 'vllmImage', patch: { vllmImage: nextEngine }, rolls: true }]),
  { field: 'modelName', patch: { modelName: 'Qwen/Qwen2.5-1.5B-Instruct' }, rolls: true, unnamed: true },
  { field: 'loadFormat', patch: { loadFormat: 'gthread' }, rolls: true, unnamed: true },
];

const podField = (path: string): Promise<string> =>
  field(`pods -l greenthread.ai/model=${model} --sort-by=.metadata.creationTimestamp`, `.items[-1:]${path}`);

const uids = async (): Promise<string[]> =>
  (await field(`pods -l greenthread.ai/model=${model}`, '.items[*].metadata.uid'))
    .split(' ')
    .filter((uid) => uid !== '');

/** Waits until the change is in force: a new pod alone and available, or the live setting seen. */
async function inForce(update: Update, before: string, url: string): Promise<boolean> {
  const reached = await until(`${update.field} is in force`, rollMsMax, async () => {
    if (!update.rolls) return (await update.applied!(url)) || null;
    const now = await uids();
    if (now.length !== 1 || now[0] === before) return null;
    const generation = await field(`model ${model}`, '.metadata.generation');
    const observed = await field(`model ${model}`, '.status.observedGeneration');
    const available = await field(`model ${model}`, '.status.conditions[?(@.type=="Available")].status');
    return (generation === observed && available === 'True') || null;
  });
  return reached === true;
}

export async function update(url: string, nextEngine: string | null): Promise<void> {
  title('Update a Model');
  const rows: string[][] = [];
  for (const each of updates(nextEngine)) {
    const [before] = await uids();
    const asking = keepAsking(url, each.unnamed ? undefined : 'meta-llama/Llama-3.1-8B-Instruct');
    const began = Date.now();
    await type(`kubectl patch model ${model} --type merge -p '${JSON.stringify({ spec: each.patch })}'`);
    const done = await inForce(each, before ?? '', url);
    const took = Date.now() - began;
    const { sent, lost } = await asking.stop();
    const [after] = await uids();
    check(`${each.field}: in force`, done);
    check(
      `${each.field}: pod ${each.rolls ? 'rolled' : 'kept'}`,
      (after !== before) === each.rolls,
      `${before} → ${after}`,
    );
    rows.push([
      each.field,
      after === before ? 'kept' : 'rolled',
      String(sent),
      String(lost.length),
      `${(took / 1000).toFixed(1)} s`,
    ]);
    check(
      `${each.field}: requests lost 0`,
      lost.length === 0,
      lost.map((answer) => `${answer.status} ${answer.text}`).join(' | '),
    );
  }
  table(['FIELD', 'POD', 'REQUESTS', 'LOST', 'IN FORCE AFTER'], rows);
}

export function table(head: string[], rows: string[][]): void {
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]!.length)),
  );
  for (const row of [head, ...rows])
    console.log(
      row
        .map((cell, column) => cell.padEnd(widths[column]! + 3))
        .join('')
        .trimEnd(),
    );
}
