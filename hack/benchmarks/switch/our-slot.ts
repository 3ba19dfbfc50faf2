/** GreenThread on one GPU: the real agent, two launchers, two sidecars, two simulated engines. */
import { defaultSettings } from '#proto/settings.ts';
import { createOneNode } from '../../one-node/node.ts';
import { until } from '../../one-node/programs.ts';
import { type AtEnd, type Bounds, models, type Slot, share, simulation, turns } from './slot.ts';

export const defaultBounds: Bounds = {
  minRuntimeMs: defaultSettings.fairness.minRuntimeMs,
  maxWaitTimeMs: defaultSettings.fairness.maxWaitTimeMs,
  drainTimeoutMs: defaultSettings.sleep.drainTimeoutMs,
};

export async function ourSlot(name: string, bounds: Bounds, atEnd: AtEnd): Promise<Slot> {
  const node = await createOneNode('a40:1');
  atEnd(() => node.close(process.env.GREENTHREAD_BENCH_LOGS));
  await node.startAgent();
  const { minRuntimeMs, maxWaitTimeMs, drainTimeoutMs } = bounds;
  const settings = { fairness: { minRuntimeMs, maxWaitTimeMs }, sleep: { drainTimeoutMs } };
  const pods = new Map(
    await Promise.all(
      models.map(
        async (model) => [model, await node.addPod(model, { share, settings, simulation })] as const,
      ),
    ),
  );
  for (const [model, pod] of pods)
    await until(`${model} to have booted`, async () => (await node.status(pod)).bootReady);
  return {
    name,
    bounds,
    url: (model) => pods.get(model)!.url,
    served: () => turns(node.tokens()),
    violations: node.violations,
  };
}
