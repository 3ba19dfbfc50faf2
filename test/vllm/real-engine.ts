/** A real vLLM on this machine, without GPU: installed, given a random model, started with the plug-in. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { EngineClient } from '../contract/engine-client.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
/** Start of three Python processes on two busy cores, ms. */
const bootMsMax = 400_000;
const outputCharactersMax = 8_000;

/** Bytes of the weights in a model's folder, as its index says. */
export const weightsBytesOf = (folder: string): number =>
  JSON.parse(readFileSync(join(folder, 'model.safetensors.index.json'), 'utf8')).metadata.total_size;

const statusKiB = (pid: number, field: string): number =>
  Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0);

/** A process and its descendants, from /proc. */
export function family(pid: number): number[] {
  const parents = new Map<number, number>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]));
    } catch {
      // ended while we looked
    }
  }
  const found = [pid];
  for (let i = 0; i < found.length; i += 1)
    for (const [child, parent] of parents) if (parent === found[i]) found.push(child);
  return found;
}

/** As /proc/<pid>/comm has it; empty when there is no such process. */
export const nameOf = (pid: number): string => {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  } catch {
    return ''; // ended while we looked
  }
};

/** Anonymous memory of the engine's workers, bytes: what would be on the GPU, and what Python and its threads need. */
export const workerBytes = (pid: number): number =>
  family(pid)
    .filter((member) => nameOf(member).startsWith('VLLM::Worker'))
    .reduce((sum, member) => sum + statusKiB(member, 'RssAnon') * 1024, 0);

export interface RealEngineOptions {
  python: string;
  model: string;
  flags?: string[];
  env?: Record<string, string>;
}

export class RealEngine extends EngineClient {
  readonly child: ChildProcess;
  output = '';
  readonly #folder: string;
  readonly #ended: Promise<void>;

  private constructor(folder: string, { python, model, flags = [], env = {} }: RealEngineOptions) {
    super(join(folder, 'engine.sock'));
    this.#folder = folder;
    const words = ['-m', 'vllm.entrypoints.openai.api_server', '--model', model];
    const names = ['--served-model-name', 'org/model', 'alias', '--uds', this.socket];
    this.child = spawn(python, [...words, ...names, '--enable-sleep-mode', '--enforce-eager', ...flags], {
      // Not the repository: its folder vllm/ is no vLLM.
      cwd: folder,
      env: {
        PATH: process.env.PATH,
        HOME: folder,
        PYTHONPATH: join(root, 'vllm'),
        VLLM_SERVER_DEV_MODE: '1',
        VLLM_CPU_KVCACHE_SPACE: '1',
        VLLM_NO_USAGE_STATS: '1',
        HF_HUB_OFFLINE: '1',
        GREENTHREAD_IMAGE_DIR: join(folder, 'images'),
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [this.child.stdout!, this.child.stderr!])
      stream.on('data', (data) => {
        this.output = (this.output + data).slice(-outputCharactersMax);
      });
    this.#ended = new Promise((done) => this.child.once('close', () => done()));
  }

  /** @returns one that serves. @throws Error with its last words */
  static async start(options: RealEngineOptions): Promise<RealEngine> {
    const engine = new RealEngine(mkdtempSync(join(tmpdir(), 'vllm-')), options);
    const began = Date.now();
    while (!(await engine.get('/health', 2_000).catch(() => null))) {
      if (engine.child.exitCode !== null || Date.now() - began > bootMsMax) {
        const { output } = engine;
        await engine.end();
        throw new Error(`vLLM did not start: ${output}`);
      }
      await new Promise((done) => setTimeout(done, 500));
    }
    return engine;
  }

  get pid(): number {
    return this.child.pid!;
  }

  async end(): Promise<void> {
    await this.close();
    const processes = family(this.pid);
    if (this.child.exitCode === null) {
      this.child.kill('SIGTERM');
      const timer = setTimeout(() => {
        for (const pid of processes) {
          try {
            process.kill(pid, 'SIGKILL');
          } catch {
            // gone already
          }
        }
      }, 10_000);
      await this.#ended;
      clearTimeout(timer);
    }
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
