/** ./hack/bench staging: weights from disk into host memory, by the agent's staging and by what others use. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { build } from 'esbuild';
import { decodeManifest, weightsFiles } from '#proto/weights.ts';
import { makePool, makeStaged, stagedFolder } from '../../../agent/act/staging/pool-folder.ts';
import { startStaging } from '../../../agent/act/staging/stage.ts';
import { createReader } from '../../../agent/act/staging/start-reader.ts';
import { installPackages } from '../../setup/debian-packages.ts';
import { median } from '../policy/figures.ts';
import { makeForm, shardsOf } from './form.ts';
import { fio, goFirst, installStreamers, startLoader, type Taken } from './peers.ts';

export const stagingOptions = [
  '--rounds N       5 by default, interleaved; a round takes about a minute',
  '--first          what is measured goes before all other processes (SCHED_RR), for a machine that others use',
  '--gigabytes N    1.2 by default: size of the model, random weights, kept in the cache',
];

const execute = promisify(execFile);
const repository = fileURLToPath(new URL('../../..', import.meta.url));
const cacheRoot = process.env.GREENTHREAD_CACHE ?? join(homedir(), '.cache/greenthread');
const roundsDefault = 5;
const roundsMax = 100;
const key = 'benchmark';

interface Place {
  first: boolean;
  /** A reader as in our image: bundled, so that no TypeScript is read when it starts. */
  readerUrl: URL;
  python: string;
  streamers: string;
  files: string[];
  form: string;
  pool: string;
}

/** Everything that was read is forgotten, by whomever. */
async function dropCaches(): Promise<void> {
  await execute('sync');
  writeFileSync('/proc/sys/vm/drop_caches', '3');
}

/** Our staging as the agent does it, from the open to the last byte checked. */
async function ours(
  { form, pool, readerUrl, first }: Place,
  meanwhile: () => Promise<Taken> = async () => none,
): Promise<Taken> {
  const manifest = decodeManifest(readFileSync(join(form, weightsFiles.manifest)));
  const reader = createReader(readerUrl);
  makeStaged(pool, key, manifest.bytes);
  await dropCaches();
  if (first) await goFirst(process.pid, true);
  const cpu = process.cpuUsage();
  const began = performance.now();
  const run = startStaging({ formFolder: form, stagedFolder: stagedFolder(pool, key), manifest, reader });
  const loaded = meanwhile();
  const outcome = await run.ended;
  const seconds = (performance.now() - began) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  const after = await loaded;
  if (first) await goFirst(process.pid, false);
  reader.close();
  rmSync(stagedFolder(pool, key), { recursive: true });
  if (outcome.type !== 'whole') throw new Error(`staging: ${JSON.stringify(outcome)}`);
  if (outcome.cached) console.log(`note: ${outcome.cached}`);
  if (after !== none) return after;
  return { seconds, cpuSeconds: (user + system) / 1e6, bytes: manifest.bytes };
}

const none: Taken = { seconds: 0, cpuSeconds: 0, bytes: 0 };

async function peer({ python, streamers, files, first }: Place, kind: string): Promise<Taken> {
  const loader = startLoader(python, streamers, [kind, ...files]);
  await loader.ready;
  await dropCaches();
  if (first) await goFirst(loader.pid, true);
  return loader.load();
}

/** Staging, and at the same time an engine's loader that copies out of the pool what is there already. */
async function together(place: Place): Promise<Taken> {
  const { python, streamers, form, pool, first } = place;
  const loader = startLoader(python, streamers, ['copy', form, stagedFolder(pool, key)]);
  await loader.ready;
  if (first) await goFirst(loader.pid, true);
  return ours(place, () => loader.load());
}

async function disk({ form, first }: Place, largePages: boolean): Promise<Taken> {
  await dropCaches();
  const path = join(form, weightsFiles.weights);
  const bytes = statSync(path).size;
  if (first) await goFirst(process.pid, true);
  const bytesPerSecond = await fio(path, largePages);
  if (first) await goFirst(process.pid, false);
  return { seconds: bytes / bytesPerSecond, cpuSeconds: 0, bytes };
}

const ways: Record<string, (place: Place) => Promise<Taken>> = {
  fio: (place) => disk(place, false),
  'fio, large pages': (place) => disk(place, true),
  staging: (place) => ours(place),
  'staging + copy-out': together,
  'runai-model-streamer': (place) => peer(place, 'runai'),
  fastsafetensors: (place) => peer(place, 'fastsafetensors'),
  'default loader': (place) => peer(place, 'default'),
};

async function bundleReader(): Promise<URL> {
  const outfile = join(repository, 'node_modules/.cache/greenthread/staging-reader.js');
  await build({
    entryPoints: [join(repository, 'agent/act/staging/reader.ts')],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    packages: 'external',
  });
  return pathToFileURL(outfile);
}

async function prepare(gigabytes: string, first: boolean): Promise<Place> {
  await installPackages(
    [
      ['fio', 'fio'],
      ['chrt', 'util-linux'],
    ],
    console.log,
  );
  const { stdout } = await execute(join(repository, 'hack/vllm/install.sh'));
  const python = stdout.trim();
  const cache = join(cacheRoot, 'bench-staging');
  const streamers = await installStreamers(python, cache);
  const makeModel = join(repository, 'hack/vllm/make_model.py');
  const made = await execute(python, [makeModel, '--gigabytes', gigabytes, '--dtype', 'bfloat16']);
  const model = made.stdout.trim();
  const form = await makeForm(model, join(cache, `forms-${gigabytes}`));
  const files = (await shardsOf(model)).map((name) => join(model, name));
  const pool = mkdtempSync('/dev/shm/greenthread-bench-');
  makePool(pool);
  return { first, readerUrl: await bundleReader(), python, streamers, files, form, pool };
}

const ratio = (a: number, b: number): string => (a / b).toFixed(2);

function report(taken: Record<string, Taken[]>): void {
  const seconds = (name: string): number => median(taken[name]!.map((each) => each.seconds));
  console.log('\n| way | s, median (min to max) | GB/s | CPU s |\n|---|---|---|---|');
  for (const [name, all] of Object.entries(taken)) {
    const sorted = all.map((each) => each.seconds).sort((a, b) => a - b);
    const gbs = median(all.map((each) => each.bytes / each.seconds / 1e9));
    const cpu = name.startsWith('fio') ? '' : median(all.map((each) => each.cpuSeconds)).toFixed(2);
    console.log(
      `| ${name} | ${seconds(name).toFixed(2)} (${sorted[0]!.toFixed(2)} to ${sorted.at(-1)!.toFixed(2)}) | ${gbs.toFixed(2)} | ${cpu} |`,
    );
  }
  const streamer = Math.min(seconds('runai-model-streamer'), seconds('fastsafetensors'));
  const cores = median(taken.staging!.map((each) => each.cpuSeconds / each.seconds));
  const best = Math.min(streamer, seconds('default loader'));
  console.log(
    [
      'result:',
      `staging_vs_fio=${ratio(seconds('fio'), seconds('staging'))}`,
      `staging_vs_fio_large_pages=${ratio(seconds('fio, large pages'), seconds('staging'))}`,
      `staging_vs_best_streamer=${ratio(streamer, seconds('staging'))}`,
      `staging_vs_default_loader=${ratio(seconds('default loader'), seconds('staging'))}`,
      `staging_and_copy_vs_best=${ratio(best, seconds('staging + copy-out'))}`,
      `cpu_cores=${cores.toFixed(2)}`,
      `cpu_seconds_per_gb=${median(taken.staging!.map((each) => (each.cpuSeconds / each.bytes) * 1e9)).toFixed(2)}`,
    ].join(' '),
  );
}

export async function staging(flags: string[]): Promise<number> {
  const { values } = parseArgs({
    args: flags,
    options: { rounds: { type: 'string' }, gigabytes: { type: 'string' }, first: { type: 'boolean' } },
  });
  const rounds = Number(values.rounds ?? roundsDefault);
  if (!Number.isInteger(rounds) || rounds < 1 || rounds > roundsMax)
    throw new Error(`--rounds must be a whole number from 1 to ${roundsMax}`);
  if (!/^\d+(\.\d+)?$/.test(values.gigabytes ?? '1.2')) throw new Error('--gigabytes must be a number');
  if (process.getuid?.() !== 0)
    throw new Error('the page cache is dropped between measurements: run this as root');
  const place = await prepare(values.gigabytes ?? '1.2', values.first ?? false);
  try {
    const taken: Record<string, Taken[]> = Object.fromEntries(Object.keys(ways).map((name) => [name, []]));
    for (let round = 0; round < rounds; round++) {
      const names = Object.keys(ways);
      // Each round begins with another one: a disk that gets slower is so for all.
      const order = [...names.slice(round % names.length), ...names.slice(0, round % names.length)];
      for (const name of order) taken[name]!.push(await ways[name]!(place));
      console.log(
        `round ${round + 1}: ${names.map((name) => `${name} ${taken[name]!.at(-1)!.seconds.toFixed(2)} s`).join(', ')}`,
      );
    }
    report(taken);
    return 0;
  } finally {
    rmSync(place.pool, { recursive: true, force: true });
  }
}
