/**
 * A GPU node without Kubernetes: simulated GPUs, the real agent, and for each pod the real launcher, sidecar and an engine, the
 * simulated one unless told otherwise, in a control group named as the kubelet names it, so that the agent finds whose memory it
 * is. Needs root.
 */
import { randomUUID } from 'node:crypto';
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { annotations, gpuName, labels } from '#proto/names.ts';
import { defaultSettings, formatSettings, type Settings } from '#proto/settings.ts';
import { repository } from '../nodes/places.ts';
import { type ApiServer, collections } from './api-server.ts';
import { type EngineOptions, engineCommand, engineEnvironment } from './engine-command.ts';
import { createGpus, type Gpus } from './gpus.ts';
import { end, linesOf, type Program, python, said, start, until } from './programs.ts';

/** Control groups are made here: version 1's controller for pids, or version 2's one tree. */
const cgroupRoot = ['/sys/fs/cgroup/pids', '/sys/fs/cgroup'].find((path) =>
  existsSync(join(path, 'cgroup.procs')),
)!;
const cgroupName = 'greenthread-test';
/** Where a service account lies, as in a cluster; its API server is one that nobody can reach unless a node is given one. */
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

/** Where an engine is to serve, and of what. */
export interface EngineAt {
  uuid: string;
  podUid: string;
  podDir: string;
  /** Its Unix socket. */
  socket: string;
  /** Of the node, as in OneNode. */
  modelsDir: string;
  poolDir: string;
}

export interface PodOptions extends EngineOptions {
  settings?: { fairness?: Partial<Settings['fairness']>; sleep?: Partial<Settings['sleep']> };
  /** Another engine than the simulated one beside its own folder. */
  engine?: (at: EngineAt) => { command: string[]; env: Record<string, string> };
  /** Of the pod at the API server, beside those that every model's pod has. */
  annotations?: Record<string, string>;
}

export interface NodeOptions {
  /** The agent asks a canary's question after each boot and wake (the chart's agent.canary). */
  canary?: boolean;
  /** HTTPS with this certificate; the node's pods and GPUs are put there. */
  api?: { server: ApiServer; certificateFile: string };
  /** Parent of the pool's folder; beside the models unless given. */
  poolParent?: string;
  /** Bound of the pool, 10^6 bytes (the chart's storage.pinnedMemoryMB); half of the memory unless given. */
  poolMB?: number;
  /** Told of each program as soon as it is started, before it can have said anything. @param pod its UID and Model; null: the agent */
  onStart?: (program: Program, pod: { podUid: string; model: string } | null) => void;
}

export interface OneNode extends Gpus {
  folder: string;
  modelsDir: string;
  poolDir: string;
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

interface Folders {
  podsDir: string;
  modelsDir: string;
  poolDir: string;
}

async function startAgent(
  gpus: Gpus,
  folders: Folders,
  { api, canary = false, poolMB = 0, onStart }: NodeOptions,
): Promise<AgentProcess> {
  const main = process.env.GREENTHREAD_AGENT ?? 'agent/main.ts';
  const ca = api?.certificateFile ?? '/dev/null';
  const script = `mount -t tmpfs none /run && mkdir -p ${account} && cat ${ca} > ${account}/ca.crt && echo t > ${account}/token && exec node ${main}`;
  const program = start('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script], {
    ...gpus.env,
    KUBERNETES_SERVICE_HOST: '127.0.0.1',
    KUBERNETES_SERVICE_PORT: String(api?.server.port ?? 1),
    NODE_NAME: 'n1',
    GREENTHREAD_PODS_DIR: folders.podsDir,
    GREENTHREAD_MODELS_DIR: folders.modelsDir,
    GREENTHREAD_POOL_DIR: folders.poolDir,
    GREENTHREAD_PINNED_MEMORY_MB: String(poolMB),
    GREENTHREAD_CANARY: String(canary),
    METRICS_ADDRESS: '127.0.0.1:0',
    LOG_LEVEL: 'debug',
  });
  onStart?.(program, null);
  return { ...program, metricsPort: Number(await said('the agent', program, /"metrics":(\d+)/)) };
}

const settingsOf = ({ settings }: PodOptions): Settings => ({
  ...defaultSettings,
  endpoints: ['chat_completions', 'completions'],
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

/** The node's pods and its one GPU with their bindings, as the controller would have made them. */
function apiOf({ server }: { server: ApiServer }, uuid: string) {
  const gpu = gpuName('n1', 0);
  const bindings: object[] = [];
  server.put(collections.nodes, { apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1' } });
  return {
    add({ podUid, model }: Pod, reservedBytes: number, options: PodOptions): void {
      bindings.push({ namespace: 'default', model, replica: 0, uuid, reservedBytes });
      const spec = { nodeName: 'n1', index: 0, uuid, bindings: [...bindings] };
      const kind = { apiVersion: 'greenthread.ai/v1alpha1', kind: 'GPU' };
      server.put(collections.gpus, { ...kind, metadata: { name: gpu }, spec });
      server.put(collections.pods, {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: {
          name: `${model}-0-abcde`,
          namespace: 'default',
          uid: podUid,
          labels: { [labels.model]: model, [labels.replica]: '0' },
          annotations: {
            [annotations.settings]: formatSettings(settingsOf(options)),
            [annotations.gpuUuids]: uuid,
            [annotations.vramBytes]: String(reservedBytes),
            ...options.annotations,
          },
        },
        spec: { nodeName: 'n1' },
        status: { phase: 'Running' },
      });
    },
  };
}

/** @param kinds as gpu-sim-setup takes them */
export async function createOneNode(kinds = 'a40:1', given: NodeOptions = {}): Promise<OneNode> {
  const folder = mkdtempSync(join(tmpdir(), 'gt-node-'));
  const podsDir = join(folder, 'pods');
  const modelsDir = join(folder, 'models');
  const poolDir = given.poolParent ? mkdtempSync(join(given.poolParent, 'gt-pool-')) : join(folder, 'pool');
  const gpus = await createGpus(kinds, join(folder, 'gpu'));
  const uuid = gpus.uuids[0]!;
  const api = given.api && apiOf(given.api, uuid);
  const pods: Pod[] = [];
  let agent: AgentProcess | undefined;

  const reservedBytes = (pod: PodOptions): number => Math.ceil(gpus.capacityBytes() * pod.share);

  function startLauncher(podUid: string, model: string, cgroup: string, options: PodOptions): Program {
    const podDir = join(podsDir, podUid);
    const socket = join(podDir, 'engine.sock');
    const engine = options.engine?.({ uuid, podUid, podDir, socket, modelsDir, poolDir }) ?? {
      command: engineCommand(join(modelsDir, model), model, socket, options),
      env: engineEnvironment(uuid),
    };
    // Into the control group first: the engine is born there. Python would find the repository's folders by their names.
    const script = `echo $$ > ${cgroup}/cgroup.procs && cd ${podDir} && exec "$@"`;
    const launcher = [python, join(repository, 'vllm/launcher.py'), '--', ...engine.command];
    return start('sh', ['-c', script, 'sh', ...launcher], {
      ...gpus.env,
      ...engine.env,
      POD_UID: podUid,
      GREENTHREAD_GPU_UUIDS: uuid,
      GREENTHREAD_VRAM_BYTES: String(reservedBytes(options)),
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
    given.onStart?.(launcher, { podUid, model });
    const sidecar = startSidecar(podUid, model, podDir, uuid, settingsOf(options));
    const pod: Pod = { podUid, model, cgroup, launcher, sidecar, url: '' };
    pods.push(pod);
    api?.add(pod, reservedBytes(options), options);
    pod.url = `http://127.0.0.1:${await said(`${model}'s sidecar`, sidecar, /"port":(\d+)/)}`;
    return pod;
  }

  return {
    ...gpus,
    folder,
    modelsDir,
    poolDir,
    agent: () => agent!,
    async startAgent() {
      agent = await startAgent(gpus, { podsDir, modelsDir, poolDir }, given);
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
      for (const path of [folder, poolDir]) rmSync(path, { recursive: true, force: true });
    },
  };
}
