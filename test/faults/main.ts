/**
 * node test/faults/main.ts [--runs 20] [--real 0] [--seed 1] [--lanes 2]
 *
 * That many lives of two Models that do not fit on one GPU together, `--real` of them on the real vLLM: fetched, converted, staged,
 * booted, served, put to sleep and woken, and one to three times something of it is killed with SIGKILL at a point that the seed
 * chooses. The last line is `N passed, N failed`; a life that failed prints its seed and what happened. A run of whose kills too few
 * struck (hits.ts) has failed too.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { hitFaults, type Planned, phaseOf } from './hits.ts';
import type { Hit, Usual } from './killing.ts';
import type { LaneAnswer, LaneJob } from './lane.ts';
import type { LifeResult } from './life.ts';
import { type Kind, killText, phases, planFor } from './plan.ts';
import { makeFolder } from './setting.ts';

const lanesMax = 2;

function readNumbers(args: string[]) {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({ args, options: { runs: text, real: text, seed: text, lanes: text } });
  const number = (name: keyof typeof values, fallback: number): number => {
    const value = values[name] === undefined ? fallback : Number(values[name]);
    if (!Number.isInteger(value) || value < 0 || value > 1_000_000)
      throw new Error(`--${name} ${values[name]}: a whole number up to 1000000`);
    return value;
  };
  const runs = number('runs', values.seed === undefined ? 20 : 1);
  const real = Math.min(number('real', 0), runs);
  return {
    runs,
    real,
    seed: number('seed', 1),
    lanes: number('lanes', Math.min(lanesMax, availableParallelism())),
  };
}

/** Another process for lives one after the other. */
function openLane() {
  const child = fork(new URL('lane.ts', import.meta.url), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const ended = once(child, 'exit');
  // Told where a life waits for it.
  ended.catch(() => {});
  return {
    async live(job: LaneJob): Promise<LaneAnswer> {
      child.send(job);
      const died = ended.then(() => {
        throw new Error(`the process of seed ${job.seed} ended`);
      });
      const answers = new AbortController();
      const answer = once(child, 'message', { signal: answers.signal }).then(([said]) => said as LaneAnswer);
      return Promise.race([answer, died]).finally(() => answers.abort());
    },
    close: () => child.kill(),
  };
}

const total = {
  passed: 0,
  failed: 0,
  requests: 0,
  lost: 0,
  planned: [] as Planned[],
  restMs: [] as number[],
};

function count({ problems, fired, requests, lost, restMs }: LifeResult, kind: Kind, seed: number): void {
  total[problems.length === 0 ? 'passed' : 'failed'] += 1;
  total.requests += requests;
  total.lost += lost;
  if (restMs !== null) total.restMs.push(restMs);
  for (const [index, kill] of planFor(seed, kind).kills.entries())
    total.planned.push({ kind, kill, hit: fired[index]?.hit ?? 'missed' });
}

function showKills(): void {
  const hits: Record<Hit, number> = { hit: 0, late: 0, nobody: 0, missed: 0 };
  const places: Record<string, { planned: number; struck: number }> = {};
  for (const { kill, hit } of total.planned) {
    hits[hit] += 1;
    const where = `${kill.victim} ${phaseOf(kill)}`;
    const { planned, struck } = places[where] ?? { planned: 0, struck: 0 };
    places[where] = { planned: planned + 1, struck: struck + (hit === 'hit' ? 1 : 0) };
  }
  const all = Object.entries(hits).map(([hit, n]) => `${n} ${hit}`);
  const each = Object.entries(places).sort();
  const shown = each.map(([where, { planned, struck }]) => `${where} ${struck} of ${planned}`);
  console.log(`kills: ${all.join(', ')}; ${shown.join(', ')}`);
}

function show(result: LifeResult, job: LaneJob, of: { run: number; runs: number; tookMs: number }): void {
  const { seed, kind, logFile } = job;
  const { problems, fired, restMs, timeline } = result;
  const kills = fired.map(({ kill, hit }) => `${killText(kill, kind)}${hit === 'hit' ? '' : ` [${hit}]`}`);
  const rest = restMs === null ? '' : `, at rest after ${(restMs / 1_000).toFixed(1)} s`;
  const verdict = problems.length === 0 ? 'ok' : 'FAILED';
  console.log(
    `${of.run} of ${of.runs}: seed ${seed}, ${kind}: ${kills.join('; ')}: ${verdict}${rest} (${(of.tookMs / 1_000).toFixed(1)} s)`,
  );
  if (problems.length === 0) return;
  const again = `--seed ${seed} --runs 1${kind === 'vllm' ? ' --real 1' : ''}`;
  console.log(`${timeline}\n${problems.map((problem) => `  ✗ ${problem}`).join('\n')}`);
  console.log(`  what its programs said: ${logFile}; again: ./hack/test faults ${again}`);
}

/** @param seeds of lives, shared out among lanes */
async function runKind(
  kind: Kind,
  seeds: number[],
  lanes: number,
  folder: string,
  runs: number,
): Promise<void> {
  if (seeds.length === 0) return;
  const jobFor = (seed: number | null, usual: Usual | null, reference: LaneJob['reference']): LaneJob => ({
    ...{ kind, seed, folder, usual, reference },
    logFile: join(tmpdir(), `faults-${kind}-${seed ?? 'calm'}-${process.pid}.log`),
  });
  const open = Array.from({ length: Math.min(lanes, seeds.length) }, openLane);
  try {
    const calmJob = jobFor(null, null, {});
    const { result: calm, reference } = await open[0]!.live(calmJob);
    if (!calm.usual) {
      console.log(
        `${calm.timeline}\nthe life without kills failed (${kind}): ${calm.problems.join('; ')}; ${calmJob.logFile}`,
      );
      total.failed += seeds.length;
      return;
    }
    const usual = calm.usual;
    console.log(
      `${kind}, without kills, ms: ${phases.map((phase) => `${phase} ${Math.round(usual[phase])}`).join(', ')}`,
    );
    const left = [...seeds];
    await Promise.all(
      open.map(async (lane) => {
        for (let seed = left.shift(); seed !== undefined; seed = left.shift()) {
          const job = jobFor(seed, usual, reference);
          const began = performance.now();
          const { result } = await lane.live(job);
          count(result, kind, seed);
          show(result, job, { run: total.passed + total.failed, runs, tookMs: performance.now() - began });
        }
      }),
    );
  } finally {
    for (const lane of open) lane.close();
  }
}

async function main(): Promise<void> {
  const { runs, real, seed, lanes } = readNumbers(process.argv.slice(2));
  const folder = await makeFolder();
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => {
      rmSync(folder, { recursive: true, force: true });
      process.exit(1);
    });
  const seeds = Array.from({ length: runs }, (_, n) => seed + n);
  try {
    await runKind('sim', seeds.slice(0, runs - real), lanes, folder, runs);
    await runKind('vllm', seeds.slice(runs - real), 1, folder, runs);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  const { restMs, requests, lost } = total;
  const sorted = restMs.sort((a, b) => a - b);
  const at = (share: number) => ((sorted[Math.floor(share * (sorted.length - 1))] ?? 0) / 1_000).toFixed(1);
  showKills();
  console.log(
    `at rest after the last kill: median ${at(0.5)} s, p95 ${at(0.95)} s, longest ${at(1)} s; ${requests} requests, ${lost} ended with their killed engine`,
  );
  const faults = hitFaults(total.planned);
  for (const fault of faults) console.log(`  ✗ ${fault}: the run shows too little`);
  total.failed += faults.length;
  console.log(`${total.passed} passed, ${total.failed} failed`);
  process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
}

await main();
