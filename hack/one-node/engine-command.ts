/** A simulated engine's folder, command and environment, as a model's pod would have them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { repository } from '../nodes/places.ts';
import { python } from './programs.ts';

export interface EngineOptions {
  /** Share of the GPU's memory, as vLLM's --gpu-memory-utilization. */
  share: number;
  /** sim.json of the model: how its engine behaves (hack/engine/README.md). */
  simulation?: Record<string, unknown>;
}

/** Writes the model's folder. @returns what to run to serve it as `org/<model>` on a Unix socket */
export function engineCommand(modelDir: string, model: string, socket: string, options: EngineOptions) {
  mkdirSync(modelDir, { recursive: true });
  writeFileSync(join(modelDir, 'config.json'), '{"max_position_embeddings": 4096}');
  writeFileSync(join(modelDir, 'sim.json'), JSON.stringify(options.simulation ?? {}));
  return [
    ...[python, '-m', 'vllm.entrypoints.openai.api_server', '--model', modelDir],
    ...['--served-model-name', `org/${model}`, '--uds', socket],
    ...['--enable-sleep-mode', '--gpu-memory-utilization', String(options.share)],
  ];
}

export const engineEnvironment = (uuid: string): Record<string, string> => ({
  PYTHONPATH: join(repository, 'hack/engine'),
  PYTHONDONTWRITEBYTECODE: '1',
  VLLM_SERVER_DEV_MODE: '1',
  NVIDIA_VISIBLE_DEVICES: uuid,
});
