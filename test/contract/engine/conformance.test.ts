/** The simulated vLLM, held to what the real one does. */
import { afterAll } from 'vitest';
import { GpuNode } from '../gpu-node.ts';
import { conformance } from './conformance.ts';
import { contextTokens } from './conformance-subject.ts';

const MiB = 2 ** 20;
const weightsMiB = 2048;
let node: GpuNode | undefined;
afterAll(() => node?.destroy());

conformance('the simulated vLLM', async () => {
  const created = await GpuNode.create('--gpus', 'a40:1');
  node = created;
  const sim = { weightsMiB };
  await created.set(0, 'engine.sleepFails=true');
  const engine = await created.engine({ config: { max_position_embeddings: contextTokens }, sim }).ready();
  return {
    engine,
    held: async () => (await created.processes()).get(engine.pid)! * MiB,
    weightsBytes: weightsMiB * MiB,
    letSleep: () => created.set(0, 'engine.sleepFails=false'),
  };
});
