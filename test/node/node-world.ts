/**
 * A GPU node without Kubernetes: simulated GPUs, the real agent, and for each pod the real launcher, sidecar and a simulated
 * engine, in a control group named as the kubelet names it, so that the agent finds whose memory it is. Needs root.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { defaultSettings, formatSettings, type Settings } from '#proto/settings.ts';
import { gpuBinaries, python } from '../contract/gpu-node.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
/** Control groups are made here: version 1's controller for pids, or version 2's one tree. */
const cgroupRoot = ['/sys/fs/cgroup/pids', '/sys/fs/cgroup'].find((path) =>
  existsSync(join(path, 'cgroup.procs')),
)!;
const untilMsMax = 60_000;

/** Waits until `probe` gives something. */
export async function until<T>(
  what: string,
  probe: () => Promise<T | null | undefined | false> | T | null | undefined | false,
): Promise<T> {
  const giveUpAt = performance.now() + untilMsMax;
  while (performance.now() < giveUpAt) {
    const value = await probe();
    if (value) return value;
    await delay(25);
  }
  throw new Error(`waited ${untilMsMax} ms in vain for ${what}`);
}

interface Program {
  child: ChildProcess;
  output(): string;
  ended: Promise<number | null>;
}

/** Longest output of one program that is kept, characters. */
const outputCharactersMax = 4 * 1024 * 1024;

function start(command: string, args: string[], env: Record<string, string>): Program {
  const child = spawn(command, args, {
    cwd: root,
    env: { PATH: process.env.PATH!, HOME: process.env.HOME ?? '/root', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk) => {
      output = (output + String(chunk)).slice(-outputCharactersMax);
    });
  return {
    child,
    output: () => output,
    ended: new Promise((resolve) => child.on('close', (code) => resolve(code))),
  };
}

export interface Pod {
  podUid: string;
  model: string;
  cgroup: string;
  launcher: Program;
  sidecar: Program;
  url: string;
}

export interface AgentProcess extends Program {
  metricsPort: number;
}

export interface PodOptions {
  /** Share of the GPU's memory, as vLLM's --gpu-memory-utilization. */
  share: number;
  settings?: { fairness?: Partial<Settings['fairness']>; sleep?: Partial<Settings['sleep']> };
  /** sim.json of the model: how its engine behaves. */
  simulation?: Record<string, unknown>;
}

export interface NodeWorld {
  folder: string;
  uuids: string[];
  agent(): AgentProcess;
  startAgent(): Promise<AgentProcess>;
  /** kill -9, and waited for. */
  killAgent(): Promise<void>;
  /** kill -9 as soon as the agent carries out such an effect, or some ms later. */
  killAgentAt(effect: string, laterMs?: number): Promise<void>;
  /** What models can hold on the first GPU altogether, bytes. */
  capacityBytes(): number;
  addPod(model: string, options: PodOptions): Promise<Pod>;
  /** A chat completion. @returns status and text */
  chat(
    pod: Pod,
    words: string,
    options?: { maxTokens?: number },
  ): Promise<{ status: number; text: string; timing: string | null }>;
  status(pod: Pod): Promise<{ state: string; bootReady: boolean }>;
  metrics(): Promise<string>;
  /** What nvidia-smi says is used on the first GPU, bytes. */
  usedBytes(): number;
  /** Lines that GPUs wrote about memory that was taken and not free. */
  violations(): string[];
  /** Token-log lines of the first GPU. */
  tokens(): { model: string; awake: boolean; bytes: number; request: string }[];
  set(...changes: string[]): void;
  close(): Promise<void>;
}

const lines = (path: string): string[] =>
  existsSync(path) ? readFileSync(path, 'utf8').split('\n').filter(Boolean) : [];

/** @param gpus as gpu-sim-setup takes them */
export async function createNodeWorld(gpus = 'a40:1'): Promise<NodeWorld> {
  const binaries = await gpuBinaries();
  const folder = mkdtempSync(join(tmpdir(), 'gt-node-'));
  const sim = join(folder, 'gpu');
  const podsDir = join(folder, 'pods');
  const modelsDir = join(folder, 'models');
  const env = { PATH: `${binaries}:${process.env.PATH}`, GPU_SIM_DIR: sim };
  const tool = (name: string, ...args: string[]): string =>
    execFileSync(join(binaries, name), args, { encoding: 'utf8', env: { ...process.env, ...env } });
  const uuids = tool('gpu-sim-setup', '--node', 'n1', '--gpus', gpus, '--dir', sim).trim().split('\n');
  const card = JSON.parse(readFileSync(join(sim, uuids[0]!, 'gpu.json'), 'utf8')) as {
    totalMiB: number;
    reservedMiB: number;
  };
  const pods: Pod[] = [];
  let agent: AgentProcess | undefined;

  async function startAgent(): Promise<AgentProcess> {
    // A service account, as in a cluster, whose API server nobody can reach.
    const account = '/run/secrets/kubernetes.io/serviceaccount';
    const script = `mount -t tmpfs none /run && mkdir -p ${account} && : > ${account}/ca.crt && echo t > ${account}/token && exec node ${process.env.GREENTHREAD_AGENT ?? 'agent/main.ts'}`;
    const program = start('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script], {
      ...env,
      KUBERNETES_SERVICE_HOST: '127.0.0.1',
      KUBERNETES_SERVICE_PORT: '1',
      NODE_NAME: 'n1',
      GREENTHREAD_PODS_DIR: podsDir,
      GREENTHREAD_MODELS_DIR: modelsDir,
      METRICS_ADDRESS: '127.0.0.1:0',
      LOG_LEVEL: 'debug',
    });
    const port = await until('the agent', () => {
      if (program.child.exitCode !== null) throw new Error(`the agent ended: ${program.output()}`);
      return /"metrics":(\d+)/.exec(program.output())?.[1];
    });
    agent = { ...program, metricsPort: Number(port) };
    return agent;
  }

  function startLauncher(podUid: string, model: string, cgroup: string, options: PodOptions): Program {
    const bytes = Math.ceil((card.totalMiB - card.reservedMiB) * 2 ** 20 * options.share);
    const podDir = join(podsDir, podUid);
    const engine = [python, '-m', 'vllm.entrypoints.openai.api_server', '--model', join(modelsDir, model)];
    const flags = ['--served-model-name', `org/${model}`, '--uds', join(podDir, 'engine.sock')];
    const memory = ['--enable-sleep-mode', '--gpu-memory-utilization', String(options.share)];
    // Into the control group first: the engine is born there.
    const script = `echo $$ > ${cgroup}/cgroup.procs && exec "$@"`;
    return start(
      'sh',
      ['-c', script, 'sh', python, join(root, 'vllm/launcher.py'), '--', ...engine, ...flags, ...memory],
      {
        ...env,
        PYTHONPATH: join(root, 'hack/engine'),
        PYTHONDONTWRITEBYTECODE: '1',
        VLLM_SERVER_DEV_MODE: '1',
        NVIDIA_VISIBLE_DEVICES: uuids[0]!,
        POD_UID: podUid,
        GREENTHREAD_GPU_UUIDS: uuids[0]!,
        GREENTHREAD_VRAM_BYTES: String(bytes),
        GREENTHREAD_POD_DIR: podDir,
      },
    );
  }

  async function addPod(model: string, options: PodOptions): Promise<Pod> {
    const podUid = randomUUID();
    const podDir = join(podsDir, podUid);
    const modelDir = join(modelsDir, model);
    mkdirSync(modelDir, { recursive: true });
    writeFileSync(join(modelDir, 'config.json'), '{"max_position_embeddings": 4096}');
    writeFileSync(join(modelDir, 'sim.json'), JSON.stringify(options.simulation ?? {}));
    const cgroup = join(cgroupRoot, 'greenthread-test', `pod${podUid}`, 'engine');
    mkdirSync(cgroup, { recursive: true });
    mkdirSync(podDir, { recursive: true });
    const settings: Settings = {
      ...defaultSettings,
      endpoints: ['chat_completions'],
      fairness: { ...defaultSettings.fairness, ...options.settings?.fairness },
      sleep: { ...defaultSettings.sleep, ...options.settings?.sleep },
    };
    const launcher = startLauncher(podUid, model, cgroup, options);
    const sidecar = start('node', ['sidecar/main.ts'], {
      POD_UID: podUid,
      POD_NAME: `${model}-0-abcde`,
      POD_NAMESPACE: 'default',
      GREENTHREAD_MODEL: model,
      GREENTHREAD_MODEL_NAME: `org/${model}`,
      GREENTHREAD_REPLICA: '0',
      GREENTHREAD_SETTINGS: formatSettings(settings),
      GREENTHREAD_GPU_UUIDS: uuids[0]!,
      GREENTHREAD_SERVICE: `gt-${model}`,
      GREENTHREAD_POD_DIR: podDir,
      GREENTHREAD_LISTEN_HOST: '127.0.0.1',
      GREENTHREAD_LISTEN_PORT: '0',
    });
    const port = await until(`${model}'s sidecar`, () => {
      if (sidecar.child.exitCode !== null) throw new Error(`the sidecar ended: ${sidecar.output()}`);
      return /"port":(\d+)/.exec(sidecar.output())?.[1];
    });
    const pod = { podUid, model, cgroup, launcher, sidecar, url: `http://127.0.0.1:${port}` };
    pods.push(pod);
    return pod;
  }

  async function end(program: Program, signal: NodeJS.Signals): Promise<void> {
    if (program.child.exitCode === null && program.child.signalCode === null) program.child.kill(signal);
    await program.ended;
  }

  async function removeCgroup(pod: Pod): Promise<void> {
    for (const pid of lines(join(pod.cgroup, 'cgroup.procs'))) {
      try {
        process.kill(Number(pid), 'SIGKILL');
      } catch {
        // it ended meanwhile
      }
    }
    await until('the pod to be empty', () => lines(join(pod.cgroup, 'cgroup.procs')).length === 0);
    rmdirSync(pod.cgroup);
    rmdirSync(join(pod.cgroup, '..'));
  }

  return {
    folder,
    uuids,
    agent: () => agent!,
    startAgent,
    async killAgent() {
      if (agent) await end(agent, 'SIGKILL');
    },
    capacityBytes: () => (card.totalMiB - card.reservedMiB) * 2 ** 20,
    async killAgentAt(effect, laterMs = 0) {
      const { child } = agent!;
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no ${effect} in ${untilMsMax} ms`)), untilMsMax);
        child.stderr!.on('data', (chunk) => {
          if (!String(chunk).includes(`"effect":"${effect}"`)) return;
          clearTimeout(timer);
          if (laterMs === 0) child.kill('SIGKILL');
          else setTimeout(() => child.kill('SIGKILL'), laterMs);
          resolve();
        });
      });
      await agent!.ended;
    },
    addPod,
    async chat(pod, words, { maxTokens = 8 } = {}) {
      const response = await fetch(`${pod.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({
          model: `org/${pod.model}`,
          max_tokens: maxTokens,
          messages: [{ role: 'user', content: words }],
        }),
      });
      return {
        status: response.status,
        text: await response.text(),
        timing: response.headers.get('server-timing'),
      };
    },
    async status(pod) {
      return (await (await fetch(`${pod.url}/status`)).json()) as { state: string; bootReady: boolean };
    },
    async metrics() {
      return (await fetch(`http://127.0.0.1:${agent!.metricsPort}/metrics`)).text();
    },
    usedBytes: () =>
      Number(tool('nvidia-smi', '--query-gpu=memory.used', '--format=csv,noheader,nounits').split('\n')[0]) *
      2 ** 20,
    violations: () => uuids.flatMap((uuid) => lines(join(sim, uuid, 'violations'))),
    tokens: () => lines(join(sim, uuids[0]!, 'tokens.log')).map((line) => JSON.parse(line) as never),
    set: (...changes) => void tool('gpu-sim-set', 'all', ...changes),
    async close() {
      if (process.env.GREENTHREAD_TEST_LOGS) {
        appendFileSync(`${process.env.GREENTHREAD_TEST_LOGS}`, `--- agent\n${agent?.output()}\n`);
        for (const pod of pods)
          appendFileSync(
            `${process.env.GREENTHREAD_TEST_LOGS}`,
            `--- ${pod.model} launcher\n${pod.launcher.output()}\n--- ${pod.model} sidecar\n${pod.sidecar.output()}\n`,
          );
      }
      if (agent) await end(agent, 'SIGKILL');
      for (const pod of pods) {
        await end(pod.sidecar, 'SIGKILL');
        await end(pod.launcher, 'SIGKILL');
        await removeCgroup(pod);
      }
      try {
        rmdirSync(join(cgroupRoot, 'greenthread-test'));
      } catch {
        // another world is still there
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
