/**
 * How often the canary raises a false alarm: a real engine sleeps and wakes N times; after each wake it is asked what the
 * agent asks and judged as the agent judges, against its answer after the boot. Nothing is wrong with the weights here, so
 * each alarm is a false one. Every second canary runs among other clients' streams, which the wake has thawed. At the end
 * an engine with other weights is asked: that must be an alarm.
 *
 *   node test/vllm/canary.ts [--wakes 1000] [--dtype bfloat16] [--embeddings]      exit 1 when there was a false alarm, or none of other weights
 */
import { parseArgs } from 'node:util';
import {
  type CanaryAnswer,
  canaryQuestions,
  compareCanary,
  isNotOffered,
  readCanaryAnswer,
} from '../../agent/decide/canary.ts';
import { randomModel, vllmPython } from '../../hack/installation/vllm.ts';
import { greedy } from '../contract/engine/conformance-subject.ts';
import { RealEngine } from './real-engine.ts';

const otherStreams = 3;
const progressEvery = 100;
const gigabytes = 0.1;

const { values } = parseArgs({
  options: {
    wakes: { type: 'string', default: '1000' },
    dtype: { type: 'string', default: 'bfloat16' },
    embeddings: { type: 'boolean', default: false },
  },
});
const wakes = Number(values.wakes);
if (!Number.isInteger(wakes) || wakes < 1 || wakes > 1_000_000)
  throw new Error(`--wakes ${values.wakes}: a whole number from 1 to 1000000`);

const python = await vllmPython();
const pooling = ['--runner', 'pooling', '--convert', 'embed'];
const boot = async (seed: number): Promise<RealEngine> =>
  RealEngine.start({
    python,
    model: await randomModel(python, gigabytes, seed),
    flags: [
      ...['--load-format', 'gthread', '--dtype', values.dtype, '--max-model-len', '2048'],
      ...(values.embeddings ? pooling : []),
    ],
  });
const engine = await boot(1);

/** The first question that this engine takes, as the agent finds it. */
async function canary(of: RealEngine): Promise<{ answer: CanaryAnswer; tookMs: number }> {
  for (const question of canaryQuestions) {
    const began = performance.now();
    const { status, json } = await of.post(question.path, question.body);
    const tookMs = performance.now() - began;
    if (isNotOffered(status)) continue;
    const answer = status === 200 ? readCanaryAnswer(question, JSON.stringify(json)) : null;
    if (!answer) throw new Error(`${question.path} was answered ${status} ${JSON.stringify(json)}`);
    return { answer, tookMs };
  }
  throw new Error('the engine takes none of the questions');
}

async function sleepAndWake(): Promise<void> {
  for (const path of ['/sleep?level=1&mode=keep', '/wake_up', '/reset_prefix_cache']) {
    const { status, json } = await engine.post(path);
    if (status !== 200) throw new Error(`${path}: ${status} ${JSON.stringify(json)}`);
  }
}

const clients = (wake: number) =>
  Promise.all(
    Array.from({ length: wake % 2 === 0 && !values.embeddings ? otherStreams : 0 }, (_, at) =>
      engine.stream(`client ${wake} ${at}`, { max_tokens: 200, ...greedy }),
    ),
  );

const quantile = (numbers: number[], share: number): number =>
  numbers.sort((a, b) => a - b)[Math.floor((numbers.length - 1) * share)] ?? 0;

let alarms = 0;
let ties = 0;
let apart = 0;
const alone: number[] = [];
const among: number[] = [];
let first: CanaryAnswer;
try {
  first = (await canary(engine)).answer;
  const began = Date.now();
  for (let wake = 1; wake <= wakes; wake += 1) {
    const others = await clients(wake);
    await sleepAndWake();
    const { answer, tookMs } = await canary(engine);
    const verdict = compareCanary(first, answer);
    (others.length > 0 ? among : alone).push(tookMs);
    apart = Math.max(apart, verdict.apart);
    if (verdict.alarm) {
      alarms += 1;
      console.log(`wake ${wake}, ${others.length} other streams: ${verdict.message}`);
    } else if (verdict.message.includes('near-tie')) ties += 1;
    for (const stream of others) stream.leave();
    if (wake % progressEvery === 0)
      console.log(`${wake} wakes, ${alarms} alarms, ${Math.round((Date.now() - began) / 1000)} s`);
  }
} finally {
  await engine.end();
}
const other = await boot(2);
const nonsense = await canary(other)
  .then(({ answer }) => compareCanary(first, answer))
  .finally(() => other.end());
console.log(`other weights: ${nonsense.message}`);
const ms = (numbers: number[]): string =>
  `${Math.round(quantile(numbers, 0.5))}/${Math.round(quantile(numbers, 0.99))}`;
console.log(
  `result: wakes=${wakes} false_alarms=${alarms} near_ties=${ties} apart_max=${apart.toPrecision(2)} other_weights_apart=${nonsense.apart.toPrecision(2)} dtype=${values.dtype} ` +
    `probe_ms_p50/p99=${ms(alone)} among_streams_ms_p50/p99=${ms(among)}`,
);
process.exitCode = alarms === 0 && nonsense.alarm ? 0 : 1;
