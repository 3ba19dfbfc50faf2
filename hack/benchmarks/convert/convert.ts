/**
 * ./hack/bench convert: the conversion of fetched files beside `cp` and `sha256sum` of the same, round by round, each with
 * its bytes on the disk at the end and the page cache dropped of all files before. sha256sum has no use of the processor's own
 * SHA instructions everywhere; `openssl dgst`, which has, is a harder peer.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { commit, makeUpstream, modelName } from './upstream.ts';

export const convertOptions = [
  '--mib N         size of the model, 1024 by default; three times as much disk is used',
  '--rounds N      5 by default',
  '--folder DIR    on the disk to measure; a temporary folder by default',
];

const converter = fileURLToPath(new URL('../../../converter/main.ts', import.meta.url));
/** Longest time of one step, ms. */
const stepMsMax = 30 * 60_000;
const pollMs = 20;

interface Bench {
  modelsDir: string;
  copyDir: string;
  files: string[];
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

/** Out of the page cache with these files alone: other programs keep theirs. */
async function dropFromCache(files: string[]): Promise<void> {
  await execa('sync', files);
  for (const file of files) await execa('dd', [`if=${file}`, 'iflag=nocache', 'count=0', 'status=none']);
}

interface Copied {
  cpMs: number;
  syncMs: number;
  sha256Ms: number;
  /** By openssl; null where there is none. */
  opensslMs: number | null;
}

async function copyAndHash({ files, copyDir }: Bench): Promise<Copied> {
  rmSync(copyDir, { recursive: true, force: true });
  mkdirSync(copyDir);
  await dropFromCache(files);
  const copies = files.map((file) => join(copyDir, file.slice(file.lastIndexOf('/') + 1)));
  const options = { timeout: stepMsMax };
  return {
    cpMs: await timed(() => execa('cp', [...files, copyDir], options)),
    syncMs: await timed(() => execa('sync', copies, options)),
    sha256Ms: await timed(() => execa('sha256sum', files, { ...options, stdout: 'ignore' })),
    opensslMs: await opensslMs(files),
  };
}

async function opensslMs(files: string[]): Promise<number | null> {
  await dropFromCache(files);
  const options = { timeout: stepMsMax, stdout: 'ignore' } as const;
  return timed(() => execa('openssl', ['dgst', '-sha256', ...files], options)).catch(() => null);
}

const peakBytes = (pid: number): number => {
  try {
    const kib = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return Number(kib ?? 0) * 1024;
  } catch {
    return 0; // it has ended
  }
};

/** The Job as it is, on files that lie there already: it reads, checks, writes, hashes, syncs, publishes. */
async function convert({ files, modelsDir }: Bench): Promise<{ ms: number; rssBytes: number }> {
  rmSync(join(modelsDir, 'bench--llama', `${commit}.gthread-1`), { recursive: true, force: true });
  await dropFromCache(files);
  let rssBytes = 0;
  const ms = await timed(async () => {
    const job = execa(process.execPath, [converter, 'convert'], {
      env: {
        MODEL_NAME: modelName,
        REVISION: commit,
        MODELS_DIR: modelsDir,
        TERMINATION_LOG: join(modelsDir, '..', 'termination-log'),
      },
      stdout: 'ignore',
      timeout: stepMsMax,
    });
    const timer = setInterval(() => {
      rssBytes = Math.max(rssBytes, peakBytes(job.pid ?? 0));
    }, pollMs);
    await job.finally(() => clearInterval(timer));
  });
  return { ms, rssBytes };
}

const median = (values: number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
};
const seconds = (ms: number | null): string => (ms === null ? 'n/a' : (ms / 1000).toFixed(2));

export async function convertBench(flags: string[]): Promise<number> {
  const { values } = parseArgs({
    args: flags,
    options: {
      mib: { type: 'string', default: '1024' },
      rounds: { type: 'string', default: '5' },
      folder: { type: 'string', default: tmpdir() },
    },
  });
  const [mib, rounds] = [Number(values.mib), Number(values.rounds)];
  if (!(mib > 0 && rounds >= 1)) throw new Error('--mib and --rounds must be numbers above 0');
  const root = mkdtempSync(join(values.folder, 'gt-bench-convert-'));
  try {
    const modelsDir = join(root, 'models');
    const { folder, files } = await makeUpstream(modelsDir, mib * 1024 * 1024);
    const paths = files.map(({ path }) => join(folder, path));
    const bench: Bench = { modelsDir, copyDir: join(root, 'copy'), files: paths };
    const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
    console.log(`${files.length} files, ${(bytes / 2 ** 20).toFixed(0)} MiB, seconds:\n`);
    console.log(
      '| round | cp | sync | sha256sum | openssl | convert | RSS MB |\n|---:|---:|---:|---:|---:|---:|---:|',
    );
    const copied: Copied[] = [];
    const converted: { ms: number; rssBytes: number }[] = [];
    for (let round = 1; round <= rounds; round++) {
      const [copy, ours] = [await copyAndHash(bench), await convert(bench)];
      copied.push(copy);
      converted.push(ours);
      const times = [copy.cpMs, copy.syncMs, copy.sha256Ms, copy.opensslMs, ours.ms].map(seconds);
      console.log(`| ${round} | ${times.join(' | ')} | ${(ours.rssBytes / 1e6).toFixed(0)} |`);
    }
    const ours = median(converted.map(({ ms }) => ms));
    const durable = median(copied.map(({ cpMs, syncMs, sha256Ms }) => cpMs + syncMs + sha256Ms));
    const lazy = median(copied.map(({ cpMs, sha256Ms }) => cpMs + sha256Ms));
    const hard = median(
      copied.flatMap(({ cpMs, syncMs, opensslMs: ms }) => (ms === null ? [] : [cpMs + syncMs + ms])),
    );
    const rssMb = Math.max(...converted.map(({ rssBytes }) => rssBytes)) / 1e6;
    console.log(
      `\nresult: convert_vs_cp_sha256=${(ours / durable).toFixed(2)} convert_vs_cp_sha256_unsynced=${(ours / lazy).toFixed(2)} convert_vs_cp_openssl=${(ours / hard).toFixed(2)} rss_mb=${rssMb.toFixed(0)}`,
    );
    return 0;
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}
