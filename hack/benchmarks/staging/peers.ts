/** What is measured beside our staging: fio for the disk, and the loaders that people use. */
import { execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const execute = promisify(execFile);
const here = fileURLToPath(new URL('.', import.meta.url));
/** As on PyPI on the day this was written; humanize is what one of them imports. */
const streamers = ['runai-model-streamer==0.17.0', 'fastsafetensors==0.5.0', 'humanize==4.17.0'];
/** What a loader may take for one model, ms. */
const loadMsMax = 120_000;

export interface Taken {
  seconds: number;
  cpuSeconds: number;
  bytes: number;
}

/**
 * On a machine that others use as well: what is measured goes before all else, whichever way it is. Without it a way that needs
 * the CPU waits for it, and one that needs none does not.
 */
export async function goFirst(pid: number, first: boolean): Promise<void> {
  await execute('chrt', ['--all-tasks', first ? '--rr' : '--other', '--pid', first ? '1' : '0', String(pid)]);
}

/**
 * @param largePages its buffers lie on such (glibc.malloc.hugetlb), as ours do: disks of virtual machines take them faster
 * @returns bytes a second of a plain read around the page cache, four of 8 MiB at once
 */
export async function fio(path: string, largePages: boolean): Promise<number> {
  const job = [
    '--name=read',
    '--rw=read',
    '--bs=8M',
    '--direct=1',
    '--ioengine=io_uring',
    '--iodepth=4',
    '--readonly',
  ];
  const env = { ...process.env, ...(largePages ? { GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1' } : {}) };
  const args = [...job, `--filename=${path}`, '--output-format=json'];
  const { stdout } = await execute('fio', args, { env });
  const { jobs } = JSON.parse(stdout.slice(stdout.indexOf('{'))) as {
    jobs: { read: { bw_bytes: number } }[];
  };
  return jobs[0]!.read.bw_bytes;
}

/** Beside vLLM's own packages, which bring torch. @param python of hack/vllm/install.sh. @returns their folder */
export async function installStreamers(python: string, cache: string): Promise<string> {
  const folder = join(cache, 'streamers');
  const stamp = join(folder, `.${streamers.join(',')}`);
  if (existsSync(stamp)) return folder;
  const uv = join(python, '../../../uv-env/bin/uv');
  await mkdir(folder, { recursive: true });
  await execute(uv, [
    'pip',
    'install',
    '--quiet',
    '--no-deps',
    '--python',
    python,
    '--target',
    folder,
    ...streamers,
  ]);
  await writeFile(stamp, '');
  return folder;
}

export interface Loader {
  pid: number;
  /** Resolves once it has imported all it needs. */
  ready: Promise<void>;
  /** @throws Error with what it said when it fails or takes too long */
  load(): Promise<Taken>;
}

/** A process of its own for each load, as an engine is. */
export function startLoader(python: string, streamersFolder: string, args: string[]): Loader {
  const child = spawn(python, [join(here, 'load.py'), ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, PYTHONPATH: streamersFolder },
  });
  let said = '';
  child.stderr.on('data', (data: Buffer) => {
    said = `${said}${data}`.slice(-4_000);
  });
  const lines = createInterface({ input: child.stdout });
  const waiting: ((line: string) => void)[] = [];
  const unheard: string[] = [];
  lines.on('line', (line) => {
    const take = waiting.shift();
    if (take) take(line);
    else unheard.push(line);
  });
  const line = (): Promise<string> =>
    new Promise((resolve, reject) => {
      const first = unheard.shift();
      if (first !== undefined) return resolve(first);
      const timer = setTimeout(() => child.kill('SIGKILL'), loadMsMax);
      child.once('close', () => reject(new Error(`load.py ${args[0]}: ${said}`)));
      waiting.push((text) => {
        clearTimeout(timer);
        resolve(text);
      });
    });
  const ready = line().then(() => undefined);
  return {
    pid: child.pid!,
    ready,
    async load() {
      await ready;
      child.stdin.end('\n');
      // Runtimes may print of their own; ours is JSON.
      for (;;) {
        const text = await line();
        if (text.startsWith('{"seconds"')) return JSON.parse(text) as Taken;
      }
    },
  };
}
