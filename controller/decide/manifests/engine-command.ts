/** vLLM's command line and environment, as vLLM 0.32 takes them. */
import type { ModelSpec, ModelType } from '#api/model.ts';
import { parseBytes } from '#platform/quantity.ts';
import { paths, sockets } from '#proto/names.ts';
import { engineHome } from './pod-volumes.ts';

/** Arguments by type: embedding and reranking models run as pooling models; vLLM finds the rest from the files. */
const argumentsByType: Record<ModelType, readonly string[]> = {
  chat: [],
  tts: [],
  asr: [],
  embedding: ['--runner', 'pooling'],
  reranker: ['--runner', 'pooling'],
};

/** gthread's loader asks for its worker too, whose guard refuses to compute while weights are not in memory. */
const argumentsByLoadFormat: Record<ModelSpec['loadFormat'], readonly string[]> = {
  auto: [],
  gthread: ['--load-format', 'gthread', '--worker-cls', 'gthread.worker.GThreadWorker'],
};

/** vLLM's share of a GPU: the spec's own, or the absolute size over the GPU's total, cut to 4 digits so as not to exceed it. */
export function memoryShare(spec: ModelSpec, totalBytes: number): string {
  if (spec.vramPerGPU === '') return spec.gpuMemoryUtilization;
  const share = Math.floor((parseBytes(spec.vramPerGPU) / totalBytes) * 10_000) / 10_000;
  return share.toFixed(4);
}

const names = (spec: ModelSpec, flag: string): boolean =>
  spec.extraArgs.some((arg) => arg === flag || arg.startsWith(`${flag}=`));

/**
 * @param weightsPath folder of the fetched files, inside the container
 * @param totalBytes of the smallest GPU of the set
 */
export function engineCommand(spec: ModelSpec, weightsPath: string, totalBytes: number): string[] {
  const { tensor, pipeline } = spec.parallelism;
  const byType = argumentsByType[spec.modelType];
  return [
    'python3',
    `${paths.launcherInside}/launcher.py`,
    '--',
    'python3',
    '-m',
    'vllm.entrypoints.openai.api_server',
    '--model',
    weightsPath,
    '--served-model-name',
    spec.modelName,
    ...spec.aliases.filter((alias) => alias !== spec.modelName),
    '--uds',
    `${paths.podInside}/${sockets.engine}`,
    '--enable-sleep-mode',
    '--dtype',
    spec.dtype,
    ...(spec.quantization === '' ? [] : ['--quantization', spec.quantization]),
    ...(tensor > 1 ? ['--tensor-parallel-size', String(tensor)] : []),
    ...(pipeline > 1 ? ['--pipeline-parallel-size', String(pipeline)] : []),
    ...argumentsByLoadFormat[spec.loadFormat],
    '--gpu-memory-utilization',
    memoryShare(spec, totalBytes),
    ...(byType.length > 0 && !names(spec, byType[0]!) ? byType : []),
    ...spec.extraArgs,
  ];
}

/** The engine boots from disk alone and reports to nobody; its sleep routes are on a socket that only the agent has. */
export const engineEnvironment = [
  { name: 'VLLM_SERVER_DEV_MODE', value: '1' },
  { name: 'VLLM_NO_USAGE_STATS', value: '1' },
  { name: 'HF_HUB_OFFLINE', value: '1' },
  { name: 'TRANSFORMERS_OFFLINE', value: '1' },
  { name: 'HOME', value: engineHome },
  // Without a passwd entry Python's getpass asks these.
  { name: 'USER', value: 'greenthread' },
  { name: 'LOGNAME', value: 'greenthread' },
] as const;

/**
 * Where the plug-in finds weights and images (docs/weights.md). The form's folder is that of proto/weights.ts; a unit test holds
 * them together, since that module reads a file.
 * @param images proto/names.ts, imagesFolder
 */
export const weightsEnvironment = (spec: ModelSpec, weightsPath: string, images: string) => [
  { name: 'GREENTHREAD_POOL', value: paths.poolInside },
  { name: 'GREENTHREAD_IMAGE_DIR', value: paths.imageInside },
  { name: 'GREENTHREAD_ENGINE_HASH', value: images },
  ...(spec.loadFormat === 'gthread'
    ? [{ name: 'GREENTHREAD_WEIGHTS', value: `${weightsPath}.gthread-1` }]
    : []),
];
