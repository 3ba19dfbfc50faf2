/** The settings that change while a pod lives, in the form of its annotation. */
import type { EndpointName, ModelSpec } from '#api/model.ts';
import { parseDuration } from '#platform/duration.ts';
import { parseBytes } from '#platform/quantity.ts';
import { openEndpoints } from '#proto/endpoints.ts';
import { formatSettings, settingsVersion } from '#proto/settings.ts';
import { rememberedBy } from './remembered.ts';

/** @param popular whether the replica is pinned in effect, which may lag behind the spec */
export const liveSettings = (spec: ModelSpec, popular: boolean): string =>
  textOf(spec, popular ? 'popular' : '');

const textOf = rememberedBy((spec: ModelSpec, popular): string => {
  const { fairness, sleep, frontDoor } = spec;
  return formatSettings({
    v: settingsVersion,
    // The API server took only names of the list.
    endpoints: openEndpoints({
      modelType: spec.modelType,
      endpoints: spec.endpoints as EndpointName[] | undefined,
    }),
    fairness: {
      popular: popular !== '',
      minRuntimeMs: parseDuration(fairness.minRuntime),
      maxWaitTimeMs: parseDuration(fairness.maxWaitTime),
      priority: fairness.priority,
    },
    sleep: {
      idleTimeoutMs: parseDuration(sleep.idleTimeout),
      drainTimeoutMs: parseDuration(sleep.drainTimeout),
      level: sleep.level,
    },
    frontDoor: {
      maxQueued: frontDoor.maxQueued,
      maxQueuedBytes: parseBytes(frontDoor.maxQueuedBytes),
      maxWaitMs: parseDuration(frontDoor.maxWait),
      maxBodyBytes: parseBytes(frontDoor.maxBodyBytes),
      sseKeepAliveAfterMs: parseDuration(frontDoor.sseKeepAliveAfter),
      corsOrigins: frontDoor.corsOrigins,
    },
  });
});
