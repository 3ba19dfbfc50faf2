/**
 * Live settings of one replica: what may change without a new pod. The controller writes them as one annotation of the
 * pod; the agent reads it there and hands it to the sidecar, which repeats it in its hello.
 */
import type { EndpointName } from '#api/model.ts';

/** Version of the annotation's form. A reader of a neighbouring version fills what it does not find with defaults. */
export const settingsVersion = 1;

export type SleepLevel = 'auto' | 'offload' | 'discard' | 'suspend';

export interface Settings {
  v: number;
  endpoints: EndpointName[];
  fairness: { popular: boolean; minRuntimeMs: number; maxWaitTimeMs: number; priority: number };
  sleep: { idleTimeoutMs: number; drainTimeoutMs: number; level: SleepLevel };
  frontDoor: {
    maxQueued: number;
    maxQueuedBytes: number;
    maxWaitMs: number;
    maxBodyBytes: number;
    sseKeepAliveAfterMs: number;
    corsOrigins: string[];
  };
}

/** The API's defaults (api/model.ts), for a field that a neighbouring release does not write. */
export const defaultSettings: Settings = {
  v: settingsVersion,
  endpoints: [],
  fairness: { popular: false, minRuntimeMs: 10_000, maxWaitTimeMs: 5_000, priority: 0 },
  sleep: { idleTimeoutMs: 600_000, drainTimeoutMs: 30_000, level: 'auto' },
  frontDoor: {
    maxQueued: 512,
    maxQueuedBytes: 64 * 1024 * 1024,
    maxWaitMs: 300_000,
    maxBodyBytes: 32 * 1024 * 1024,
    sseKeepAliveAfterMs: 0,
    corsOrigins: [],
  },
};

export const formatSettings = (settings: Settings): string => JSON.stringify(settings);

/** A section of the given value over its defaults; fields of another type than the default's are not taken. */
function over<T extends object>(defaults: T, value: unknown): T {
  const result = { ...defaults } as Record<string, unknown>;
  if (typeof value !== 'object' || value === null) return result as T;
  for (const [key, fallback] of Object.entries(defaults)) {
    const given = (value as Record<string, unknown>)[key];
    if (typeof given === typeof fallback && Array.isArray(given) === Array.isArray(fallback))
      result[key] = given;
  }
  return result as T;
}

/**
 * Reads the annotation's text.
 * @returns the settings, every missing field at its default; null when the text is not a JSON object
 */
export function parseSettings(text: string): Settings | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
  const given = value as Record<string, unknown>;
  return {
    v: typeof given.v === 'number' ? given.v : settingsVersion,
    endpoints: Array.isArray(given.endpoints) ? (given.endpoints as EndpointName[]) : [],
    fairness: over(defaultSettings.fairness, given.fairness),
    sleep: over(defaultSettings.sleep, given.sleep),
    frontDoor: over(defaultSettings.frontDoor, given.frontDoor),
  };
}
