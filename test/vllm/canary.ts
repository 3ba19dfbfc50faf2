/**
 * How often a canary would raise a false alarm: a real engine sleeps and wakes N times; after each wake it is asked one fixed
 * question and its greedy tokens are compared with those of its first answer. Nothing is wrong with the weights here, so each
 * difference is a false alarm: another batch shape that flips a near-tie. Every second canary runs among other clients' streams.
 *
 *   node test/vllm/canary.ts [--wakes 1000] [--dtype bfloat16]      exit 1 when there was an alarm
 */
import { parseArgs } from 'node:util';
import { randomModel, vllmPython } from '../../hack/installation/vllm.ts';
import { greedy } from '../contract/engine/conformance-subject.ts';
import { RealEngine } from './real-engine.ts';

/** Tokens of a canary's answer: what a wake may take longer for it. */
const tokens = 8;
const question = 'the quick brown fox jumps over';
const otherStreams = 3;
const progressEvery = 100;

const { values } = parseArgs({
  options: {
    wakes: { type: 'string', default: '1000' },
    dtype: { type: 'string', default: 'bfloat16' },
  },
});
const wakes = Number(values.wakes);
if (!Number.isInteger(wakes) || wakes < 1 || wakes > 1_000_000)
  throw new Error(`--wakes ${values.wakes}: a whole number from 1 to 1000000`);

const python = await vllmPython();
const engine = await RealEngine.start({
  python,
  model: await randomModel(python, 0.1),
  flags: ['--load-format', 'gthread', '--dtype', values.dtype, '--max-model-len', '2048'],
});

async function canary(): Promise<string> {
  const { status, json } = await engine.post('/v1/completions', {
    prompt: question,
    max_tokens: tokens,
    ...greedy,
  });
  if (status !== 200) throw new Error(`the canary was answered ${status} ${JSON.stringify(json)}`);
  return json.choices[0].token_ids.join(',');
}

let alarms = 0;
try {
  const first = await canary();
  const began = Date.now();
  for (let wake = 1; wake <= wakes; wake += 1) {
    const others =
      wake % 2 === 0
        ? await Promise.all(
            Array.from({ length: otherStreams }, (_, i) =>
              engine.stream(`client ${wake} ${i}`, { max_tokens: 200, ...greedy }),
            ),
          )
        : [];
    for (const path of ['/sleep?level=1&mode=keep', '/wake_up']) {
      const { status, json } = await engine.post(path);
      if (status !== 200) throw new Error(`${path}: ${status} ${JSON.stringify(json)}`);
    }
    const said = await canary();
    if (said !== first) {
      alarms += 1;
      console.log(`wake ${wake}, ${others.length} other streams: ${said} instead of ${first}`);
    }
    for (const stream of others) stream.leave();
    if (wake % progressEvery === 0)
      console.log(`${wake} wakes, ${alarms} alarms, ${Math.round((Date.now() - began) / 1000)} s`);
  }
} finally {
  await engine.end();
}
console.log(`result: wakes=${wakes} false_alarms=${alarms} dtype=${values.dtype} tokens=${tokens}`);
process.exitCode = alarms === 0 ? 0 : 1;
