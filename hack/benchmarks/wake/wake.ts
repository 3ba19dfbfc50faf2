/** ./hack/bench wake: sleep and wake of a real vLLM on this machine's CPU, beside a plain memcpy of the same bytes. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Engine, type Stats, type Times } from './engine.ts';

export const wakeOptions = [
  '--gigabytes N   of float32 weights, 1.2 by default',
  '--rounds N      7 by default, at least 5; wake and memcpy take turns',
];

const vllm = fileURLToPath(new URL('../../vllm', import.meta.url));
/** So that the image is mapped again after a sleep, as it is when an engine sleeps for longer than this. */
const restMs = 500;
/** The cache is in use when a sleep comes. */
const tokens = 16;

/** The last line of a command of ours; its progress goes to stderr. */
const said = (command: string, args: string[]): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
    .trim()
    .split('\n')
    .at(-1)!;

const median = (values: number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

interface Round {
  sleepMs: number;
  sleepHttpMs: number;
  wakeMs: number;
  wakeHttpMs: number;
  wakeCpuMs: number;
  memcpyMs: number | null;
  memcpyCpuMs: number | null;
}

/** @param beside whether a memcpy follows. @throws Error when an answer is another than before the sleep */
async function round(engine: Engine, beside: boolean): Promise<Round> {
  const before = await engine.complete(tokens);
  const sleepHttpMs = await engine.timed('/sleep?level=1&mode=keep');
  await pause(restMs);
  // Asleep, so that both copies find the same free memory: what the sleep gave back.
  const copied = beside ? await engine.rpc<Times>('memcpy_seconds') : null;
  const wakeHttpMs = await engine.timed('/wake_up');
  const { last } = await engine.rpc<Stats>('gthread_stats');
  if ((await engine.complete(tokens)) !== before) throw new Error('an answer changed over a sleep');
  return {
    sleepMs: last.sleep.seconds * 1000,
    sleepHttpMs,
    wakeMs: last.wake.seconds * 1000,
    wakeHttpMs,
    wakeCpuMs: last.wake.cpuSeconds * 1000,
    memcpyMs: copied && copied.seconds * 1000,
    memcpyCpuMs: copied && copied.cpuSeconds * 1000,
  };
}

const columns: [string, keyof Round][] = [
  ['sleep ms', 'sleepMs'],
  ['(HTTP)', 'sleepHttpMs'],
  ['wake ms', 'wakeMs'],
  ['(CPU)', 'wakeCpuMs'],
  ['(HTTP)', 'wakeHttpMs'],
  ['memcpy ms', 'memcpyMs'],
  ['(CPU)', 'memcpyCpuMs'],
];

function table(title: string, rows: Round[]): void {
  console.log(`${title}\n  round ${columns.map(([name]) => name.padStart(10)).join('')}`);
  for (const [number, row] of rows.entries()) {
    const cells = columns.map(([, key]) => (row[key]?.toFixed(1) ?? '').padStart(10));
    console.log(`  ${String(number).padEnd(6)}${cells.join('')}`);
  }
}

/** The first round is not counted: pages of the cache are small until the first sleep. */
async function measure(
  options: ConstructorParameters<typeof Engine>[0],
  rounds: number,
): Promise<[Round[], Stats]> {
  const engine = new Engine(options);
  try {
    console.log(`${options.wake}: vLLM starts (about a minute)`);
    await engine.ready();
    const rows: Round[] = [];
    for (let number = 0; number <= rounds; number++) rows.push(await round(engine, options.wake === 'copy'));
    return [rows, await engine.rpc<Stats>('gthread_stats')];
  } finally {
    await engine.stop();
  }
}

export async function wake(flags: string[]): Promise<number> {
  const { values } = parseArgs({
    args: flags,
    options: { gigabytes: { type: 'string', default: '1.2' }, rounds: { type: 'string', default: '7' } },
  });
  const rounds = Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 5 || rounds > 1000) throw new Error('--rounds must be 5 to 1000');
  const python = said(join(vllm, 'install.sh'), []);
  const make = ['--gigabytes', values.gigabytes, '--dtype', 'float32'];
  const model = said(python, [join(vllm, 'make_model.py'), ...make]);
  const folder = mkdtempSync('/dev/shm/gthread-bench-');
  try {
    const [copied, stats] = await measure({ python, model, folder, wake: 'copy' }, rounds);
    table(`copy: ${(stats.weightsBytes / 1e9).toFixed(3)} GB of weights, round 0 is not counted`, copied);
    const [mapped] = await measure({ python, model, folder, wake: 'map' }, rounds);
    table('map', mapped);
    const of = (rows: Round[], key: keyof Round) => median(rows.slice(1).map((row) => row[key]!));
    // By CPU time: other work on this machine would otherwise be measured, not the copies.
    const ratio = of(copied, 'memcpyCpuMs') / of(copied, 'wakeCpuMs');
    const byClock = of(copied, 'memcpyMs') / of(copied, 'wakeMs');
    const speed = stats.weightsBytes / 1e6 / of(copied, 'wakeCpuMs');
    console.log(
      `first sleep ${copied[0]!.sleepMs.toFixed(1)} ms; a wake copies ${speed.toFixed(2)} GB/s; by the clock it is ${byClock.toFixed(3)} of memcpy`,
    );
    console.log(
      `result: wake_vs_memcpy=${ratio.toFixed(3)} sleep_ms=${of(copied, 'sleepMs').toFixed(1)} map_wake_ms=${of(mapped, 'wakeHttpMs').toFixed(1)}`,
    );
    return 0;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
