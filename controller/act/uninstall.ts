/**
 * Before the chart goes: the controllers end, then finalizers are taken off every Model, as nobody will be left to honour
 * them. The Models stay, as their CRD does; those already being deleted go at once.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { apiVersion } from '#api/crd.ts';
import {
  type KubernetesClient,
  KubernetesError,
  type KubernetesObject,
} from '#platform/kubernetes/client.ts';
import type { Log } from '#platform/log.ts';
import { finalizer, labels } from '#proto/names.ts';
import type { Model } from '../decide/kubernetes.ts';
import { components, partOf } from '../decide/settings.ts';

/** Attempts at one Model when somebody else writes it at the same moment. */
const attemptsMax = 5;
/** Controllers end within their grace of 10 s; on a node that is gone they never say so. ms. */
const endMsMax = 60_000;
const lookEveryMs = 500;

/** A running controller would put every finalizer back. */
async function endControllers(
  client: KubernetesClient,
  namespace: string,
  deployment: string,
): Promise<void> {
  await client
    .mergePatch(`/apis/apps/v1/namespaces/${namespace}/deployments/${deployment}/scale`, {
      spec: { replicas: 0 },
    })
    .catch((error: unknown) => {
      if (!(error instanceof KubernetesError && error.status === 404)) throw error;
    });
  const deadline = performance.now() + endMsMax;
  const labelSelector = `${labels.partOf}=${partOf},${labels.component}=${components.controller}`;
  while (performance.now() < deadline) {
    const { items } = await client.list<KubernetesObject>(`/api/v1/namespaces/${namespace}/pods`, {
      labelSelector,
    });
    if (items.length === 0) return;
    await delay(lookEveryMs);
  }
  throw new Error(
    `controllers still run after ${endMsMax / 1000} s: delete their pods in ${namespace} and uninstall again`,
  );
}

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

/**
 * @param at the chart's namespace and the controllers' Deployment
 * @returns how many Models were looked at
 */
export async function stripFinalizers(
  client: KubernetesClient,
  at: { namespace: string; deployment: string },
  log: Log,
): Promise<number> {
  await endControllers(client, at.namespace, at.deployment);
  const { items } = await client.list<Model>(`/apis/${apiVersion}/models`);
  for (const { metadata } of items) {
    await stripOne(client, `/apis/${apiVersion}/namespaces/${metadata.namespace}/models/${metadata.name}`);
  }
  log.info('finalizers are off', { models: items.length });
  return items.length;
}
