/**
 * Before the chart goes: nobody will be left to honour finalizers, so they are taken off every Model. The Models stay,
 * as their CRD does; those already being deleted go at once.
 */
import { apiVersion } from '#api/crd.ts';
import { type KubernetesClient, KubernetesError } from '#platform/kubernetes/client.ts';
import type { Log } from '#platform/log.ts';
import { finalizer } from '#proto/names.ts';
import type { Model } from '../decide/kubernetes.ts';

/** Attempts at one Model when somebody else writes it at the same moment. */
const attemptsMax = 5;

async function stripOne(client: KubernetesClient, path: string): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    const model = await client.get<Model>(path);
    const finalizers = model?.metadata.finalizers ?? [];
    if (!model || !finalizers.includes(finalizer)) return;
    try {
      await client.mergePatch(path, {
        metadata: {
          resourceVersion: model.metadata.resourceVersion,
          finalizers: finalizers.filter((name) => name !== finalizer),
        },
      });
      return;
    } catch (error) {
      const isRace = error instanceof KubernetesError && error.status === 409;
      if (!isRace || attempt >= attemptsMax) throw error;
    }
  }
}

/** @returns how many Models were looked at */
export async function stripFinalizers(client: KubernetesClient, log: Log): Promise<number> {
  const { items } = await client.list<Model>(`/apis/${apiVersion}/models`);
  for (const { metadata } of items) {
    await stripOne(client, `/apis/${apiVersion}/namespaces/${metadata.namespace}/models/${metadata.name}`);
  }
  log.info('finalizers are off', { models: items.length });
  return items.length;
}
