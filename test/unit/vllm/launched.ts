/** The real launcher as a child process, and an agent that listens on its grant.sock, for the launcher's tests. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { grantProtocol, type ToLauncher } from '#proto/grant.ts';

export type Line = Record<string, unknown> & { type: string };

/** Waits until `probe` gives something; fails with what was waited for after 8 s. */
export async function until<T>(what: string, probe: () => T | undefined | null | false): Promise<T> {
  for (let round = 0; round < 800; round++) {
    const value = probe();
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`waited 8 s in vain for ${what}`);
}

/** An agent of the test's: keeps every line it hears, says what the test wants. */
export class Agent {
  readonly lines: Line[] = [];
  connections = 0;
  private server: Server | undefined;
  private socket: Socket | undefined;
  private readonly path: string;
  private read = 0;

  constructor(path: string) {
    this.path = path;
  }

  async listen(): Promise<void> {
    this.server = createServer((socket) => {
      this.connections++;
      this.socket = socket;
      let rest = '';
      socket.on('error', () => {});
      socket.on('data', (chunk) => {
        rest += String(chunk);
        const lines = rest.split('\n');
        rest = lines.pop()!;
        this.lines.push(...lines.map((line) => JSON.parse(line) as Line));
      });
    });
    await new Promise<void>((resolve) => this.server!.listen(this.path, resolve));
  }

  async close(): Promise<void> {
    this.socket?.destroy();
    if (this.server) await new Promise((resolve) => this.server!.close(resolve));
    this.server = undefined;
  }

  /** The next line not yet read. */
  async next(): Promise<Line> {
    const line = await until(
      `line ${this.read + 1} after ${JSON.stringify(this.lines)}`,
      () => this.lines[this.read],
    );
    this.read++;
    return line;
  }

  /** The next lines' types, each read. */
  async types(count: number): Promise<string[]> {
    const types: string[] = [];
    while (types.length < count) types.push((await this.next()).type);
    return types;
  }

  raw(text: string): void {
    this.socket!.write(text);
  }

  say(message: ToLauncher extends infer M ? (M extends { v: number } ? Omit<M, 'v'> : never) : never): void {
    this.raw(`${JSON.stringify({ v: grantProtocol, ...message })}\n`);
  }

  grant(id = 'g-1'): void {
    this.say({ type: 'grant', id, bytes: 1 });
  }
}

export interface Launched {
  agent: Agent;
  process: ChildProcess;
  folder: string;
  output: () => string;
  /** Exit code, once it has ended. */
  exited: () => Promise<number | null>;
}

/** Whether a process has a handler of its own for a signal (Linux, proc(5), SigCgt). */
export function handles(pid: number, signal: NodeJS.Signals): boolean {
  const caught = /^SigCgt:\s*([0-9a-f]+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]!;
  return ((BigInt(`0x${caught}`) >> BigInt(constants.signals[signal] - 1)) & 1n) === 1n;
}

const launcher = fileURLToPath(new URL('../../../vllm/launcher.py', import.meta.url));
export const engineStandIn = fileURLToPath(new URL('engineStandIn.py', import.meta.url));

const running: Launched[] = [];

/** Starts the launcher with an engine of engineStandIn.py; `agent: false` leaves grant.sock unserved. */
export async function launch(
  engine: string[],
  options: { env?: Record<string, string>; agent?: boolean; command?: string[] } = {},
): Promise<Launched> {
  const folder = mkdtempSync(join(tmpdir(), 'gt-'));
  const agent = new Agent(join(folder, 'grant.sock'));
  if (options.agent !== false) await agent.listen();
  const command = options.command ?? ['--', 'python3', engineStandIn, ...engine];
  const child = spawn('python3', [launcher, ...command], {
    env: {
      PATH: process.env.PATH!,
      PYTHONDONTWRITEBYTECODE: '1',
      POD_UID: 'uid-1',
      GREENTHREAD_GPU_UUIDS: '',
      GREENTHREAD_VRAM_BYTES: '1000',
      GREENTHREAD_POD_DIR: folder,
      GREENTHREAD_GRACE_SECONDS: '60',
      ...options.env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout.on('data', (chunk) => {
    output += String(chunk);
  });
  child.stderr.on('data', (chunk) => {
    output += String(chunk);
  });
  const closed = new Promise<number | null>((resolve) => child.on('close', (code) => resolve(code)));
  const launched = { agent, process: child, folder, output: () => output, exited: () => closed };
  running.push(launched);
  return launched;
}

/** Starts it and takes it to `ready`. */
export async function launchReady(engine: string[], env: Record<string, string> = {}): Promise<Launched> {
  const launched = await launch(engine, { env });
  await launched.agent.types(1);
  launched.agent.grant();
  await launched.agent.types(2);
  return launched;
}

/** Ends whatever a test left. */
export async function endAll(): Promise<void> {
  for (const { agent, process: child, folder, exited } of running.splice(0)) {
    await agent.close();
    if (child.exitCode === null && child.signalCode === null) {
      const engine = agent.lines.findLast(({ type }) => type === 'started')?.pid;
      child.kill('SIGKILL');
      if (typeof engine === 'number') killGroup(engine);
      await exited();
    }
    rmSync(folder, { recursive: true, force: true });
  }
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // it has ended
  }
}

/** Whether a process with that number runs (a zombie counts). */
export function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
