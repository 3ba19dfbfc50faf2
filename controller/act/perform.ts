/** Effects become calls to the API server. Every call is idempotent: a repeated one changes nothing. */

import {
  type KubernetesClient,
  KubernetesError,
  type KubernetesObject,
} from '#platform/kubernetes/client.ts';
import { errorText, type Log } from '#platform/log.ts';
import { fieldManagers } from '#proto/names.ts';
import type { Effect } from '../decide/effects.ts';
import { createAnnouncer } from './announce.ts';

/** Statuses that mean a deletion has nothing left to do: gone, or another object of the same name. */
const alreadyGone = [404, 409];

async function call(client: KubernetesClient, effect: Effect): Promise<KubernetesObject | null> {
  switch (effect.type) {
    case 'create':
      return client.create<KubernetesObject>(effect.path, effect.object);
    case 'apply':
      return client.apply<KubernetesObject>(effect.path, effect.object, {
        fieldManager: fieldManagers.controller,
      });
    case 'patch':
      return client.mergePatch<KubernetesObject>(effect.path, effect.patch, {
        fieldManager: fieldManagers.controller,
      });
    case 'delete':
      await client
        .delete(effect.path, {
          uid: effect.uid,
          ...(effect.graceSeconds !== undefined && { gracePeriodSeconds: effect.graceSeconds }),
        })
        .catch((error: unknown) => {
          if (!(error instanceof KubernetesError && alreadyGone.includes(error.status))) throw error;
        });
      return null;
  }
}

export type Perform = (effect: Effect) => Promise<KubernetesObject | null>;

/** @returns a function that carries out one effect, answers with the object as it is now, and tells its Events */
export function createPerformer(client: KubernetesClient, identity: string, log: Log): Perform {
  const announce = createAnnouncer(client, identity, log);
  return async (effect) => {
    const began = performance.now();
    try {
      const object = await call(client, effect);
      log.info(effect.because, {
        effect: effect.type,
        path: effect.path,
        ms: Math.round(performance.now() - began),
      });
      for (const announcement of effect.announce ?? []) announce(announcement);
      return object;
    } catch (error) {
      log.warn(`failed: ${effect.because}`, {
        effect: effect.type,
        path: effect.path,
        error: errorText(error),
        ms: Math.round(performance.now() - began),
      });
      throw error;
    }
  };
}
