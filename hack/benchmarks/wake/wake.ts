/** ./hack/bench wake: sleep and wake of a real vLLM on this machine's CPU, beside a plain memcpy of the same bytes. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Engine, type Stats, type Times } from './engine.ts';
import { type Round, resultLines, turnsOf } from './rounds.ts';

export const wakeOptions = [
  '--gigabytes N   of float32 weights, 1.2 by default',
  '--rounds N      8 by default, at least 5; in every other one the memcpy goes first',
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

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Asleep for long enough, so that a copy finds what the sleep gave back. @returns ms over HTTP */
async function sleep(engine: Engine): Promise<number> {
  await engine.complete(tokens);
  const tookMs = await engine.timed('/sleep?level=1&mode=keep');
  await pause(restMs);
  return tookMs;
}

async function wakeUp(engine: Engine) {
  const sleepHttpMs = await sleep(engine);
  const wakeHttpMs = await engine.timed('/wake_up');
  const { last } = await engine.rpc<Stats>('gthread_stats');
  return {
    sleepMs: last.sleep.seconds * 1000,
    sleepHttpMs,
    wakeMs: last.wake.seconds * 1000,
    wakeHttpMs,
    wakeCpuMs: last.wake.cpuSeconds * 1000,
  };
}

/** In a sleep of its own, as the wake has one: neither finds what the other has left. */
async function memcpy(engine: Engine) {
  await sleep(engine);
  const { seconds, cpuSeconds } = await engine.rpc<Times>('memcpy_seconds');
  await engine.timed('/wake_up');
  return { memcpyMs: seconds * 1000, memcpyCpuMs: cpuSeconds * 1000 };
}

/** @param beside whether there is a memcpy as well. @throws Error when an answer is another than before the sleeps */
async function round(engine: Engine, number: number, beside: boolean): Promise<Round> {
  const before = await engine.complete(tokens);
  const [first] = beside ? turnsOf(number) : (['wake'] as const);
  const none = { memcpyMs: null, memcpyCpuMs: null };
  const early = beside && first === 'memcpy' ? await memcpy(engine) : none;
  const woken = await wakeUp(engine);
  const copied = beside && first === 'wake' ? await memcpy(engine) : early;
  if ((await engine.complete(tokens)) !== before) throw new Error('an answer changed over a sleep');
  return { first, ...woken, ...copied };
}

const columns: [string, Exclude<keyof Round, 'first'>][] = [
  ['sleep ms', 'sleepMs'],
  ['(HTTP)', 'sleepHttpMs'],
  ['wake ms', 'wakeMs'],
  ['(CPU)', 'wakeCpuMs'],
  ['(HTTP)', 'wakeHttpMs'],
  ['memcpy ms', 'memcpyMs'],
  ['(CPU)', 'memcpyCpuMs'],
];

function table(title: string, rows: Round[]): void {
  console.log(`${title}\n  round first   ${columns.map(([name]) => name.padStart(10)).join('')}`);
  for (const [number, row] of rows.entries()) {
    const cells = columns.map(([, key]) => (row[key]?.toFixed(1) ?? '').padStart(10));
    console.log(`  ${String(number).padEnd(6)}${row.first.padEnd(8)}${cells.join('')}`);
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
    for (let number = 0; number <= rounds; number++)
      rows.push(await round(engine, number, options.wake === 'copy'));
    return [rows, await engine.rpc<Stats>('gthread_stats')];
  } finally {
    await engine.stop();
  }
}

export async function wake(flags: string[]): Promise<number> {
  const { values } = parseArgs({
    args: flags,
    options: { gigabytes: { type: 'string', default: '1.2' }, rounds: { type: 'string', default: '8' } },
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
    for (const line of resultLines(copied, mapped, stats.weightsBytes)) console.log(line);
    return 0;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
