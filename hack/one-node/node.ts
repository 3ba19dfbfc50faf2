/**
 * A GPU node without Kubernetes: simulated GPUs, the real agent, and for each pod the real launcher, sidecar and a simulated
 * engine, in a control group named as the kubelet names it, so that the agent finds whose memory it is. Needs root.
 */
import { randomUUID } from 'node:crypto';
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { defaultSettings, formatSettings, type Settings } from '#proto/settings.ts';
import { repository } from '../nodes/places.ts';
import { type EngineOptions, engineCommand, engineEnvironment } from './engine-command.ts';
import { createGpus, type Gpus } from './gpus.ts';
import { end, linesOf, type Program, python, said, start, until } from './programs.ts';

/** Control groups are made here: version 1's controller for pids, or version 2's one tree. */
const cgroupRoot = ['/sys/fs/cgroup/pids', '/sys/fs/cgroup'].find((path) =>
  existsSync(join(path, 'cgroup.procs')),
)!;
const cgroupName = 'greenthread-test';
/** Where a service account lies, as in a cluster; its API server is one that nobody can reach. */
const account = '/run/secrets/kubernetes.io/serviceaccount';

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

export interface PodOptions extends EngineOptions {
  settings?: { fairness?: Partial<Settings['fairness']>; sleep?: Partial<Settings['sleep']> };
}

export interface OneNode extends Gpus {
  folder: string;
  agent(): AgentProcess;
  startAgent(): Promise<AgentProcess>;
  /** kill -9, and waited for. */
  killAgent(): Promise<void>;
  addPod(model: string, options: PodOptions): Promise<Pod>;
  status(pod: Pod): Promise<{ state: string; bootReady: boolean }>;
  /** The agent's /metrics. */
  metrics(): Promise<string>;
  /** Ends every process. @param logFile what they said is added to it */
  close(logFile?: string): Promise<void>;
}

async function startAgent(gpus: Gpus, podsDir: string, modelsDir: string): Promise<AgentProcess> {
  const main = process.env.GREENTHREAD_AGENT ?? 'agent/main.ts';
  const script = `mount -t tmpfs none /run && mkdir -p ${account} && : > ${account}/ca.crt && echo t > ${account}/token && exec node ${main}`;
  const program = start('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script], {
    ...gpus.env,
    KUBERNETES_SERVICE_HOST: '127.0.0.1',
    KUBERNETES_SERVICE_PORT: '1',
    NODE_NAME: 'n1',
    GREENTHREAD_PODS_DIR: podsDir,
    GREENTHREAD_MODELS_DIR: modelsDir,
    GREENTHREAD_POOL_DIR: join(modelsDir, '../pool'),
    METRICS_ADDRESS: '127.0.0.1:0',
    LOG_LEVEL: 'debug',
  });
  return { ...program, metricsPort: Number(await said('the agent', program, /"metrics":(\d+)/)) };
}

const settingsOf = ({ settings }: PodOptions): Settings => ({
  ...defaultSettings,
  endpoints: ['chat_completions'],
  fairness: { ...defaultSettings.fairness, ...settings?.fairness },
  sleep: { ...defaultSettings.sleep, ...settings?.sleep },
});

const startSidecar = (podUid: string, model: string, podDir: string, uuid: string, settings: Settings) =>
  start('node', ['sidecar/main.ts'], {
    POD_UID: podUid,
    POD_NAME: `${model}-0-abcde`,
    POD_NAMESPACE: 'default',
    GREENTHREAD_MODEL: model,
    GREENTHREAD_MODEL_NAME: `org/${model}`,
    GREENTHREAD_REPLICA: '0',
    GREENTHREAD_SETTINGS: formatSettings(settings),
    GREENTHREAD_GPU_UUIDS: uuid,
    GREENTHREAD_SERVICE: `gt-${model}`,
    GREENTHREAD_POD_DIR: podDir,
    GREENTHREAD_LISTEN_HOST: '127.0.0.1',
    GREENTHREAD_LISTEN_PORT: '0',
  });

async function removeCgroup(cgroup: string): Promise<void> {
  for (const pid of linesOf(join(cgroup, 'cgroup.procs'))) {
    try {
      process.kill(Number(pid), 'SIGKILL');
    } catch {
      // it ended meanwhile
    }
  }
  await until('the pod to be empty', () => linesOf(join(cgroup, 'cgroup.procs')).length === 0);
  rmdirSync(cgroup);
  rmdirSync(join(cgroup, '..'));
}

/** @param kinds as gpu-sim-setup takes them */
export async function createOneNode(kinds = 'a40:1'): Promise<OneNode> {
  const folder = mkdtempSync(join(tmpdir(), 'gt-node-'));
  const podsDir = join(folder, 'pods');
  const modelsDir = join(folder, 'models');
  const gpus = await createGpus(kinds, join(folder, 'gpu'));
  const uuid = gpus.uuids[0]!;
  const pods: Pod[] = [];
  let agent: AgentProcess | undefined;

  function startLauncher(podUid: string, model: string, cgroup: string, options: PodOptions): Program {
    const podDir = join(podsDir, podUid);
    const engine = engineCommand(join(modelsDir, model), model, join(podDir, 'engine.sock'), options);
    // Into the control group first: the engine is born there.
    const script = `echo $$ > ${cgroup}/cgroup.procs && exec "$@"`;
    const launcher = [python, join(repository, 'vllm/launcher.py'), '--', ...engine];
    return start('sh', ['-c', script, 'sh', ...launcher], {
      ...gpus.env,
      ...engineEnvironment(uuid),
      POD_UID: podUid,
      GREENTHREAD_GPU_UUIDS: uuid,
      GREENTHREAD_VRAM_BYTES: String(Math.ceil(gpus.capacityBytes() * options.share)),
      GREENTHREAD_POD_DIR: podDir,
    });
  }

  async function addPod(model: string, options: PodOptions): Promise<Pod> {
    const podUid = randomUUID();
    const podDir = join(podsDir, podUid);
    const cgroup = join(cgroupRoot, cgroupName, `pod${podUid}`, 'engine');
    mkdirSync(cgroup, { recursive: true });
    mkdirSync(podDir, { recursive: true });
    const launcher = startLauncher(podUid, model, cgroup, options);
    const sidecar = startSidecar(podUid, model, podDir, uuid, settingsOf(options));
    const pod: Pod = { podUid, model, cgroup, launcher, sidecar, url: '' };
    pods.push(pod);
    pod.url = `http://127.0.0.1:${await said(`${model}'s sidecar`, sidecar, /"port":(\d+)/)}`;
    return pod;
  }

  return {
    ...gpus,
    folder,
    agent: () => agent!,
    async startAgent() {
      agent = await startAgent(gpus, podsDir, modelsDir);
      return agent;
    },
    async killAgent() {
      if (agent) await end(agent, 'SIGKILL');
    },
    addPod,
    async status(pod) {
      return (await (await fetch(`${pod.url}/status`)).json()) as { state: string; bootReady: boolean };
    },
    metrics: async () => (await fetch(`http://127.0.0.1:${agent!.metricsPort}/metrics`)).text(),
    async close(logFile) {
      if (logFile) {
        appendFileSync(logFile, `--- agent\n${agent?.output()}\n`);
        for (const { model, launcher, sidecar } of pods)
          appendFileSync(
            logFile,
            `--- ${model} launcher\n${launcher.output()}\n--- ${model} sidecar\n${sidecar.output()}\n`,
          );
      }
      if (agent) await end(agent, 'SIGKILL');
      for (const pod of pods) {
        await end(pod.sidecar, 'SIGKILL');
        await end(pod.launcher, 'SIGKILL');
        await removeCgroup(pod.cgroup);
      }
      try {
        rmdirSync(join(cgroupRoot, cgroupName));
      } catch {
        // another node is still there
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
