/** A simulated node for tests: GPUs in a folder of their own, the real binaries, real engine processes. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cache, repository as root } from '../../hack/nodes/places.ts';
import { gpuBinaries, python } from '../../hack/one-node/programs.ts';
import { EngineClient } from './engine-client.ts';

const run = promisify(execFile);
const commandMsMax = 5_000;
const untilMsMax = 8_000;
const pollMs = 20;

export { python } from '../../hack/one-node/programs.ts';

export interface Answer {
  code: number;
  signal: string | null;
  stdout: string;
  stderr: string;
}

/** Waits for a condition; the last failure is the error. */
export async function until<T>(what: string, look: () => T | Promise<T>): Promise<NonNullable<T>> {
  const deadline = Date.now() + untilMsMax;
  let last: unknown;
  while (Date.now() < deadline) {
    try {
      const value = await look();
      if (value) return value;
    } catch (error) {
      last = error;
    }
    await new Promise((done) => setTimeout(done, pollMs));
  }
  throw new Error(`waited ${untilMsMax} ms for ${what}`, { cause: last });
}

export interface EngineOptions {
  gpus?: string[];
  utilization?: number;
  flags?: string[];
  env?: Record<string, string>;
  sim?: Record<string, unknown>;
  model?: string;
  config?: unknown;
}

/** Quick figures, so that a test boots and wakes in tenths of a second. */
const quick = [
  'bootSeconds=0.05',
  'tokensPerSecond=200',
  'firstTokenMs=5',
  'wakeGBPerSecond=2000',
  'reloadGBPerSecond=2000',
  'wakeBaseMs=20',
  'sleepMs=10',
];

export class GpuNode {
  readonly folder = mkdtempSync(join(tmpdir(), 'gpu-node-'));
  readonly gpus = join(this.folder, 'gpus');
  uuids: string[] = [];
  readonly #binaries: string;
  readonly #engines: Engine[] = [];
  readonly #strangers: ChildProcess[] = [];

  private constructor(binaries: string) {
    this.#binaries = binaries;
  }

  /** `flags` are gpu-sim-setup's. */
  static async create(...flags: string[]): Promise<GpuNode> {
    const node = new GpuNode(await gpuBinaries());
    const engine = quick.flatMap((pair) => ['--engine', pair]);
    const made = await node.call('gpu-sim-setup', ['--node', 'n1', '--dir', node.gpus, ...engine, ...flags]);
    if (made.code !== 0) throw new Error(made.stderr);
    node.uuids = made.stdout.trim().split('\n');
    return node;
  }

  /** Runs a program; after `msMax` it is killed. */
  async call(
    name: string,
    args: string[],
    env: Record<string, string> = {},
    msMax = commandMsMax,
  ): Promise<Answer> {
    const options = {
      env: { ...process.env, GPU_SIM_DIR: this.gpus, ...env },
      timeout: msMax,
      killSignal: 'SIGKILL' as const,
      maxBuffer: 16 << 20,
    };
    try {
      return { code: 0, signal: null, ...(await run(join(this.#binaries, name), args, options)) };
    } catch (error) {
      const { code, signal, stdout, stderr } = error as Answer;
      return { code: code ?? -1, signal: signal ?? null, stdout, stderr };
    }
  }

  smi = (...args: string[]): Promise<Answer> => this.call('nvidia-smi', args);

  async set(gpu: number | 'all', ...changes: string[]): Promise<void> {
    const changed = await this.call('gpu-sim-set', [String(gpu), ...changes]);
    if (changed.code !== 0) throw new Error(changed.stderr);
  }

  /** What nvidia-smi says is used, MiB, GPU by GPU. */
  async used(): Promise<number[]> {
    const { stdout } = await this.smi('--query-gpu=memory.used', '--format=csv,noheader,nounits');
    return stdout.trim().split('\n').map(Number);
  }

  /** pid to MiB. */
  async processes(): Promise<Map<number, number>> {
    const { stdout } = await this.smi(
      '--query-compute-apps=pid,used_memory',
      '--format=csv,noheader,nounits',
    );
    const rows = stdout.split('\n').filter((line) => line !== '');
    return new Map(rows.map((line) => line.split(', ').map(Number) as [number, number]));
  }

  /** Lines of a JSON log in a GPU's folder. */
  log(gpu: number, name: 'tokens.log' | 'access.log' | 'violations'): Record<string, unknown>[] {
    const text = readFileSync(join(this.gpus, this.uuids[gpu]!, name), 'utf8');
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  /** Empties a GPU's logs, between tests that share a node. */
  clear(gpu: number): void {
    for (const name of ['tokens.log', 'access.log', 'violations']) {
      writeFileSync(join(this.gpus, this.uuids[gpu]!, name), '');
    }
  }

  /** A process outside every pod that takes memory: MIB, or `--anonymous COMMAND…`. */
  async stranger(gpu: number, ...what: string[]): Promise<ChildProcess> {
    const flags = what[0] === '--anonymous' ? [what.shift()!] : [];
    const child = spawn(join(this.#binaries, 'gpu-sim-hold'), [...flags, this.uuids[gpu]!, ...what], {
      env: { ...process.env, GPU_SIM_DIR: this.gpus },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.#strangers.push(child);
    await until('the stranger', () => this.processes().then((held) => held.has(child.pid!)));
    return child;
  }

  engine(options: EngineOptions = {}): Engine {
    const engine = new Engine(this, join(this.folder, `engine-${this.#engines.length}`), options);
    this.#engines.push(engine);
    return engine;
  }

  async destroy(): Promise<void> {
    for (const child of [...this.#strangers, ...this.#engines.map(({ child }) => child)])
      child.kill('SIGKILL');
    await Promise.all(this.#engines.map((engine) => engine.close()));
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** One engine process, as the launcher would start it. */
export class Engine extends EngineClient {
  readonly child: ChildProcess;
  output = '';
  readonly ended: Promise<number | null>;

  constructor(node: GpuNode, folder: string, options: EngineOptions) {
    super(join(folder, 'engine.sock'));
    mkdirSync(folder);
    if (options.config !== null)
      writeFileSync(
        join(folder, 'config.json'),
        JSON.stringify(options.config ?? { max_position_embeddings: 4096 }),
      );
    if (options.sim) writeFileSync(join(folder, 'sim.json'), JSON.stringify(options.sim));
    const flags = [
      '--model',
      folder,
      '--served-model-name',
      options.model ?? 'org/model',
      'alias',
      '--uds',
      this.socket,
    ];
    const utilization = ['--gpu-memory-utilization', String(options.utilization ?? 0.4)];
    this.child = spawn(
      python,
      [
        '-m',
        'vllm.entrypoints.openai.api_server',
        ...flags,
        '--enable-sleep-mode',
        ...utilization,
        ...(options.flags ?? []),
      ],
      {
        env: {
          PATH: process.env.PATH,
          PYTHONPATH: join(root, 'hack/engine'),
          PYTHONPYCACHEPREFIX: join(cache, 'pycache'),
          VLLM_SERVER_DEV_MODE: '1',
          GPU_SIM_DIR: node.gpus,
          NVIDIA_VISIBLE_DEVICES: (options.gpus ?? [node.uuids[0]!]).join(','),
          ...options.env,
        },
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    );
    for (const stream of [this.child.stdout!, this.child.stderr!])
      stream.on('data', (data) => (this.output += data));
    this.ended = new Promise((done) => this.child.once('close', (code) => done(code)));
  }

  get pid(): number {
    return this.child.pid!;
  }

  async ready(): Promise<this> {
    await until(`the engine: ${this.output}`, () => this.get('/health').then(({ status }) => status === 200));
    return this;
  }
}
