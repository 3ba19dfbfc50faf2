/**
 * Six Models on the two GPUs of a node under mixed streaming load: one of them on both GPUs at once, one pinned, and no GPU
 * has room for all that want it. `./hack/test load --minutes 10`.
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Streamed } from '../../../hack/clients/chat-stream.ts';
import { repository } from '../../../hack/nodes/places.ts';
import { closeShells } from '../faults/node-shell.ts';
import { gpuOf, healGpu, slowEngines, untilBooksAgree } from '../faults/stage.ts';
import { agentMetrics } from '../faults/wishes.ts';
import { clearViolations, onNode, violations } from '../harness/cluster.ts';
import { deploy, occupantsOf, untilReady } from '../lives/deploying.ts';
import { crowd, figures, type Manner } from './crowd.ts';

const minutes = Number(process.env.GREENTHREAD_TEST_MINUTES ?? 2);
const lastMs = minutes * 60_000;
/** Deploying six Models, and what still streams when the load ends. */
const aroundMs = 300_000;
const node = 'n1';
const gpuIndexes = [0, 1];
const modelName = 'Qwen/Qwen2.5-0.5B-Instruct';

const minRuntimeMs = 2_000;
const maxWaitTimeMs = 2_000;
const drainTimeoutMs = 2_000;
const turnMsMax = 60_000;
/** A client that hears nothing for so long has lost its stream: beyond any bound here. */
const silenceMs = 300_000;
/** From the answer to /sleep until the bytes rest: two measurements, on a busy machine. */
const measuringMs = 1_000;

interface Load {
  gibibytes: number;
  spec?: object;
  manner: Manner;
}

const popular = { fairness: { popular: true } };
/** An A40 has 44 GiB: no two of 24 fit together, nor one of them beside the pinned one and `rare`. */
const loads: Record<string, Load> = {
  'load-pinned': {
    gibibytes: 10,
    spec: popular,
    manner: { clients: 1, together: 1, tokens: [8, 24], pauseMs: 1_000 },
  },
  'load-wide': {
    gibibytes: 24,
    spec: { parallelism: { tensor: 2 } },
    manner: { clients: 1, together: 2, tokens: [20, 80], pauseMs: 8_000 },
  },
  'load-steady': { gibibytes: 24, manner: { clients: 3, together: 1, tokens: [10, 60], pauseMs: 200 } },
  'load-long': { gibibytes: 24, manner: { clients: 2, together: 1, tokens: [100, 300], pauseMs: 3_000 } },
  'load-bursts': { gibibytes: 24, manner: { clients: 1, together: 8, tokens: [10, 40], pauseMs: 15_000 } },
  'load-rare': { gibibytes: 14, manner: { clients: 1, together: 1, tokens: [300, 500], pauseMs: 20_000 } },
};
const names = Object.keys(loads);

const specOf = ({ gibibytes, spec }: Load): object => ({
  modelName,
  product: 'NVIDIA-A40',
  vramPerGPU: `${gibibytes}Gi`,
  fairness: { minRuntime: `${minRuntimeMs}ms`, maxWaitTime: `${maxWaitTimeMs}ms` },
  sleep: { idleTimeout: '10m', drainTimeout: `${drainTimeoutMs}ms` },
  ...spec,
});

beforeAll(async () => {
  await clearViolations();
  for (const index of gpuIndexes) await slowEngines(node, index, { bootSeconds: 1 });
});
afterAll(async () => {
  for (const index of gpuIndexes) await healGpu(node, index);
  closeShells();
});

interface Counted {
  wakes: number;
  preempted: number;
  /** The longest sleep and the longest wake, ms: the upper bounds of their buckets. */
  switchMs: number;
}

/** What the node's agent counted since its start. */
async function counted(): Promise<Counted> {
  const text = await agentMetrics(node);
  const value = (pattern: string): number =>
    Number(new RegExp(`^${pattern} (\\d+)`, 'm').exec(text)?.[1] ?? 0);
  const longest = (what: string): number => {
    const buckets = [
      ...text.matchAll(
        new RegExp(
          `^gthread_agent_${what}_duration_seconds_bucket\\{le="([^"]+)",outcome="ok"\\} (\\d+)`,
          'gm',
        ),
      ),
    ].map(([, le, count]): [number, number] => [Number(le!.replace('+Inf', 'Infinity')), Number(count)]);
    const total = buckets.at(-1)?.[1] ?? 0;
    return (buckets.find(([, count]) => count === total)?.[0] ?? Number.NaN) * 1_000;
  };
  return {
    wakes: value('gthread_agent_wake_duration_seconds_count\\{outcome="ok"\\}'),
    preempted: value('gthread_agent_preemptions_total'),
    switchMs: longest('sleep') + longest('wake') + measuringMs,
  };
}

/** docs/arbiter.md: n × (max(T, F) + D + S); all priorities are equal, all six share GPUs. */
function boundMs(switchMs: number): number {
  const turnMs = Math.min(turnMsMax, Math.max(minRuntimeMs, 4 * switchMs));
  return names.length * (Math.max(turnMs, maxWaitTimeMs) + drainTimeoutMs + switchMs);
}

/** Tokens that were said asleep or without their bytes, by the GPUs' own logs. */
async function audit(): Promise<{ tokens: number; faults: string[] }> {
  const needs = Object.fromEntries(
    Object.entries(loads).map(([name, { gibibytes }]) => [name, gibibytes * 2 ** 30]),
  );
  const uuids = await Promise.all(gpuIndexes.map(async (index) => (await gpuOf(node, index)).spec.uuid));
  const script = `${repository}/test/cluster/load/token-audit.ts`;
  const said = await onNode(node, process.execPath, script, JSON.stringify(needs), ...uuids);
  return JSON.parse(said) as { tokens: number; faults: string[] };
}

/** Each answer that was no whole stream, in a line. */
const faultsOf = (answers: Map<string, Streamed[]>): string[] =>
  [...answers].flatMap(([name, all]) =>
    all.filter(({ whole }) => !whole).map(({ status, fault }) => `${name}: ${status} ${fault}`),
  );

it(`six Models on two GPUs, ${minutes} minutes of mixed streams: each whole and in order, none refused, no wait beyond the bound`, {
  timeout: lastMs + aroundMs,
  retry: 0,
}, async (test) => {
  for (const name of names) await deploy(test, name, specOf(loads[name]!));
  for (const name of names) await untilReady(name);
  expect((await occupantsOf('load-wide')).length).toBe(2);
  const before = await counted();
  const manners = Object.fromEntries(names.map((name) => [name, loads[name]!.manner]));
  const answers = await crowd({ modelName, manners, lastMs, silenceMs });
  const after = await counted();
  const all = [...answers.values()].flat();
  const longestMs = Math.max(
    ...all.map(({ firstMs, endMs, silenceMs }) => Math.max(firstMs ?? endMs, silenceMs)),
  );
  const bound = boundMs(after.switchMs);
  // Slower than the last bucket, or none at all: nothing would be bounded.
  expect(bound).toBeLessThan(Number.POSITIVE_INFINITY);
  const { tokens, faults } = await audit();
  console.log(
    `${figures(answers)}\n${all.length} streams, ${all.reduce((sum, { pieces }) => sum + pieces, 0)} tokens, ${after.wakes - before.wakes} wakes, ${after.preempted - before.preempted} preemptions in ${minutes} minutes; longest wait ${(longestMs / 1_000).toFixed(1)} s of at most ${(bound / 1_000).toFixed(1)} s; ${tokens} tokens in the GPUs' logs`,
  );
  expect(all.filter(({ status }) => status >= 500).length).toBe(0);
  expect(faultsOf(answers)).toEqual([]);
  expect(await violations()).toEqual([]);
  expect(faults).toEqual([]);
  // The logs would show no fault either if nothing were written.
  expect(tokens).toBeGreaterThan(0);
  expect(after.preempted).toBeGreaterThan(before.preempted);
  for (const [name, streams] of answers) expect(streams.length, name).toBeGreaterThan(0);
  expect(longestMs).toBeLessThanOrEqual(bound);
  for (const index of gpuIndexes) await untilBooksAgree(node, index);
});
