/** The sidecar's environment (docs/architecture.md), read once at start. */
import { paths, ports } from '#proto/names.ts';
import { parseSettings, type Settings } from '#proto/settings.ts';

export interface Own {
  podUid: string;
  pod: string;
  namespace: string;
  /** The Model resource's name. */
  model: string;
  /** Names that a body's `model` may have: the upstream id, then the aliases. */
  names: string[];
  replica: number;
  gpuUuids: string[];
  release: string;
}

export interface Environment {
  own: Own;
  settings: Settings;
  settingsText: string;
  /** Where a queue is handed on to. */
  service: { host: string; port: number };
  apiKeysDir: string | null;
  podDir: string;
  /** null: every interface of the pod. */
  listenHost: string | null;
  listenPort: number;
  /** From SIGTERM to the kill, milliseconds, where nobody tells. */
  graceMs: number;
}

const graceSecondsDefault = 30;
const names = [
  'POD_UID',
  'POD_NAME',
  'POD_NAMESPACE',
  'GREENTHREAD_MODEL',
  'GREENTHREAD_MODEL_NAME',
  'GREENTHREAD_REPLICA',
  'GREENTHREAD_SETTINGS',
  'GREENTHREAD_SERVICE',
] as const;

const list = (text: string | undefined): string[] =>
  (text ?? '')
    .split(',')
    .map((part) => part.trim())
    .filter(Boolean);

/**
 * The Service's address: what the kubelet injects for Services older than the pod, else its name in DNS.
 * @param service such as `gt-llama-3-8b`
 */
export function serviceAddress(
  service: string,
  namespace: string,
  env: Readonly<Record<string, string | undefined>>,
): { host: string; port: number } {
  const prefix = service.toUpperCase().replaceAll('-', '_');
  const host = env[`${prefix}_SERVICE_HOST`];
  const port = Number(env[`${prefix}_SERVICE_PORT`] ?? 80);
  const isPort = Number.isInteger(port) && port > 0 && port < 65_536;
  return { host: host || `${service}.${namespace}.svc`, port: isPort ? port : 80 };
}

/**
 * @throws RangeError naming every variable that is missing or wrong, and what belongs there
 */
export function readEnvironment(env: Readonly<Record<string, string | undefined>>): Environment {
  const wrong: string[] = names
    .filter((name) => !env[name])
    .map((name) => `${name} is missing: the controller sets it in the pod's manifest`);
  const whole = (name: string, fallback: number, max: number): number => {
    const value = env[name] ? Number(env[name]) : fallback;
    if (Number.isInteger(value) && value >= 0 && value <= max) return value;
    wrong.push(`${name} is ${JSON.stringify(env[name])}: write a whole number from 0 to ${max}`);
    return fallback;
  };
  const settings = parseSettings(env.GREENTHREAD_SETTINGS ?? '');
  if (env.GREENTHREAD_SETTINGS && !settings) {
    wrong.push('GREENTHREAD_SETTINGS is not a JSON object: it is the pod annotation greenthread.ai/settings');
  }
  const replica = whole('GREENTHREAD_REPLICA', 0, 100_000);
  const listenPort = whole('GREENTHREAD_LISTEN_PORT', ports.frontDoor, 65_535);
  const graceMs = whole('GREENTHREAD_GRACE_SECONDS', graceSecondsDefault, 86_400) * 1000;
  if (wrong.length > 0 || !settings) throw new RangeError(wrong.join('; '));
  const namespace = env.POD_NAMESPACE!;
  return {
    own: {
      podUid: env.POD_UID!,
      pod: env.POD_NAME!,
      namespace,
      model: env.GREENTHREAD_MODEL!,
      names: [env.GREENTHREAD_MODEL_NAME!, ...list(env.GREENTHREAD_ALIASES)],
      replica,
      gpuUuids: list(env.GREENTHREAD_GPU_UUIDS),
      release: env.GREENTHREAD_RELEASE || 'development',
    },
    settings,
    settingsText: env.GREENTHREAD_SETTINGS!,
    service: serviceAddress(env.GREENTHREAD_SERVICE!, namespace, env),
    apiKeysDir: env.GREENTHREAD_API_KEYS_DIR || null,
    podDir: env.GREENTHREAD_POD_DIR || paths.podInside,
    listenHost: env.GREENTHREAD_LISTEN_HOST || null,
    listenPort,
    graceMs,
  };
}
