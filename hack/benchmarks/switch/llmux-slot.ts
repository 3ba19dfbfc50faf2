/**
 * llmux on a GPU of its own with the same simulated engines: it runs hooks (curl on the engine's dev routes), drains before a
 * switch, and reaches engines by TCP alone, so each has a byte pipe to its Unix socket.
 */
import { existsSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, connect as dial, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { cache } from '../../nodes/places.ts';
import { engineCommand, engineEnvironment } from '../../one-node/engine-command.ts';
import { createGpus, type Gpus } from '../../one-node/gpus.ts';
import { end, type Program, start, until } from '../../one-node/programs.ts';
import {
  type AtEnd,
  type ModelName,
  models,
  type Slot,
  share,
  simulation,
  turns,
  untilStarted,
} from './slot.ts';

const version = '2.4.0';
const home = join(cache, `llmux-${version}`);
const binary = join(home, 'bin/llmux');
const buildMsMax = 30 * 60_000;
/** In a network of the benchmark's own any port will do. */
const port = 3_000;
const enginePorts: Record<ModelName, number> = { a: 8_001, b: 8_002 };

/** Builds llmux from crates.io once; 3 minutes on two cores. @throws Error when there is no cargo, or it fails */
export async function installLlmux(): Promise<void> {
  if (existsSync(binary)) return;
  console.error(`setup: llmux ${version} from crates.io (about 3 minutes, once)`);
  const building = `${home}.building-${process.pid}`;
  const install = ['cargo', 'install', `llmux@${version}`, '--locked', '--root', building];
  await execa('nice', ['-n', '10', ...install], {
    stdio: ['ignore', 'ignore', 'inherit'],
    timeout: buildMsMax,
  });
  renameSync(building, home);
}

interface EngineProcess {
  model: ModelName;
  program: Program;
  socket: string;
}

const post = (socket: string, path: string): string =>
  `curl -sf --max-time 60 -X POST --unix-socket ${socket} 'http://engine${path}'`;

function startEngine(model: ModelName, folder: string, gpus: Gpus): EngineProcess {
  const socket = join(folder, `${model}.sock`);
  const [command, ...args] = engineCommand(join(folder, model), model, socket, { share, simulation });
  const program = start(command!, args, { ...gpus.env, ...engineEnvironment(gpus.uuids[0]!) });
  return { model, program, socket };
}

/** Bytes between a TCP port and a Unix socket, both ways. */
async function pipe(toPort: number, socket: string): Promise<Server> {
  const server = createServer({ noDelay: true, allowHalfOpen: true }, (incoming) => {
    const outgoing = dial({ path: socket, allowHalfOpen: true });
    const drop = () => {
      incoming.destroy();
      outgoing.destroy();
    };
    incoming.on('error', drop);
    outgoing.on('error', drop);
    incoming.pipe(outgoing);
    outgoing.pipe(incoming);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(toPort, '127.0.0.1', resolve);
  });
  return server;
}

const configuration = (engines: EngineProcess[]) => ({
  port,
  policy: { drain_before_switch: true, min_active_secs: 0 },
  models: Object.fromEntries(
    engines.map(({ model, socket }) => [
      `org/${model}`,
      {
        port: enginePorts[model],
        wake: post(socket, '/wake_up'),
        sleep: post(socket, '/sleep?level=1'),
        alive: `curl -sf --max-time 5 --unix-socket ${socket} http://engine/health`,
      },
    ]),
  ),
});

/** It listens on every address: call this in a network of its own. */
export async function llmuxSlot(atEnd: AtEnd): Promise<Slot> {
  const folder = mkdtempSync(join(tmpdir(), 'gt-llmux-'));
  const programs: Program[] = [];
  const pipes: Server[] = [];
  atEnd(async () => {
    for (const program of programs) await end(program, 'SIGKILL');
    for (const server of pipes) server.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const gpus = await createGpus('a40:1', join(folder, 'gpu'));
  const engines: EngineProcess[] = [];
  // One after the other: two awake do not fit.
  for (const model of models) {
    const engine = startEngine(model, folder, gpus);
    engines.push(engine);
    programs.push(engine.program);
    await untilStarted(`llmux's engine ${model}`, engine.program.output);
    await execa('sh', ['-c', post(engine.socket, '/sleep?level=1')]);
    pipes.push(await pipe(enginePorts[model], engine.socket));
  }
  const file = join(folder, 'config.json');
  writeFileSync(file, JSON.stringify(configuration(engines)));
  const llmux = start(binary, ['--config', file], { RUST_LOG: 'info' });
  programs.push(llmux);
  await until('llmux to listen', () => {
    if (llmux.child.exitCode !== null) throw new Error(`llmux ended: ${llmux.output()}`);
    return llmux.output().includes('Listening for requests');
  });
  return {
    name: `llmux ${version}`,
    bounds: null,
    url: () => `http://127.0.0.1:${port}`,
    served: () => turns(gpus.tokens()),
    violations: gpus.violations,
  };
}
