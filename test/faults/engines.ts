/** The two kinds of engine in a pod of one node, and how one of its processes is found. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { imagesFolder } from '#proto/names.ts';
import { engineEnvironment } from '../../hack/one-node/engine-command.ts';
import type { EngineAt, PodOptions } from '../../hack/one-node/node.ts';
import { python } from '../../hack/one-node/programs.ts';
import { family, nameOf } from '../vllm/real-engine.ts';
import type { EnginePart, ModelName, Plan } from './plan.ts';

/** What of a real engine's memory is expected to be awake on the GPU, and its share of that: two do not fit. */
const realReservedMiB = 2_048;
/** One awake, and another one whose residue was not measured yet (1.5 GiB, docs/arbiter.md) with 256 MiB beside it. */
const realRoomMiB = 3_900;
/** The smallest GPU that holds that. */
export const gpuOf = { sim: 'a40:1', vllm: 'quadro-p2000:1' } as const;
/** Memory of the real engines' GPU that a stranger takes, MiB. */
export const occupiedMiB = (capacityBytes: number): number =>
  Math.floor(capacityBytes / 2 ** 20) - realRoomMiB;

export interface EnginePlace {
  plan: Plan;
  model: ModelName;
  /** The published commit, and its form. */
  folder: string;
  form: string;
  /** Of a vLLM; null: the simulated one. */
  vllmPython: string | null;
}

function simulated({ plan, model, folder }: EnginePlace, { uuid, socket }: EngineAt, share: number) {
  const simulation = Object.entries(plan.simulation).map(([name, value]) => [
    `VLLM_SIM_${name}`,
    String(value),
  ]);
  return {
    command: [
      ...[python, '-m', 'vllm.entrypoints.openai.api_server', '--model', folder],
      ...['--served-model-name', `org/${model}`, '--uds', socket],
      ...['--enable-sleep-mode', '--gpu-memory-utilization', String(share)],
    ],
    env: { ...engineEnvironment(uuid), ...Object.fromEntries(simulation) },
  };
}

/** As the controller's pods run it (controller/decide/manifests/engine-command.ts), its memory counted as the GPU's. */
function real({ model, folder, form, vllmPython }: EnginePlace, at: EngineAt, share: number) {
  const imageDir = join(at.poolDir, 'pods', at.podUid);
  mkdirSync(imageDir, { recursive: true });
  return {
    command: [
      ...['gpu-sim-hold', '--anonymous', at.uuid, vllmPython!, '-m', 'vllm.entrypoints.openai.api_server'],
      ...['--model', folder, '--served-model-name', `org/${model}`, '--uds', at.socket],
      ...['--enable-sleep-mode', '--dtype', 'float32', '--load-format', 'gthread'],
      ...['--worker-cls', 'gthread.worker.GThreadWorker', '--gpu-memory-utilization', share.toFixed(4)],
      ...['--enforce-eager', '--max-model-len', '1024'],
    ],
    env: {
      VLLM_SERVER_DEV_MODE: '1',
      VLLM_NO_USAGE_STATS: '1',
      HF_HUB_OFFLINE: '1',
      TRANSFORMERS_OFFLINE: '1',
      HOME: at.podDir,
      // In GB, the smallest that vLLM takes.
      VLLM_CPU_KVCACHE_SPACE: '1',
      // Else each engine binds itself to the first core.
      VLLM_CPU_OMP_THREADS_BIND: 'nobind',
      OMP_NUM_THREADS: '1',
      NVIDIA_VISIBLE_DEVICES: at.uuid,
      GREENTHREAD_POOL: at.poolDir,
      GREENTHREAD_IMAGE_DIR: imageDir,
      GREENTHREAD_ENGINE_HASH: imagesFolder('default', engineHash(model)),
      GREENTHREAD_WEIGHTS: form,
    },
  };
}

export const engineHash = (model: ModelName): string => `faults${model}`;

/** @param capacityBytes of the GPU */
export function engineOptions(
  place: EnginePlace,
  capacityBytes: number,
): Pick<PodOptions, 'engine' | 'share'> {
  const share = place.vllmPython === null ? 0.6 : (realReservedMiB * 2 ** 20) / capacityBytes;
  const make = place.vllmPython === null ? simulated : real;
  return { share, engine: (at) => make(place, at, share) };
}

/** As vLLM's processes call themselves; the kernel keeps 15 characters. */
const partNames: Record<Exclude<EnginePart, 'server'>, string> = {
  core: 'VLLM::EngineCor',
  worker: 'VLLM::Worker',
};

/** @param pid of the engine's first process. @returns that of the part; the first itself where there is no such part (yet) */
export function partOf(pid: number, part: EnginePart): number {
  if (part === 'server') return pid;
  return family(pid).find((member) => nameOf(member).startsWith(partNames[part])) ?? pid;
}
