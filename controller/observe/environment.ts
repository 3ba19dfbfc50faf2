/** The controller's settings, from the environment that the chart writes. */
import { z } from 'zod';
import { parseDuration } from '#platform/duration.ts';
import { type Level, levels } from '#platform/log.ts';
import { ports } from '#proto/names.ts';
import type { ControllerSettings, RouteSettings } from '../decide/settings.ts';

const json = <T extends z.ZodType>(schema: T) =>
  z.string().transform((text, context): z.output<T> => {
    try {
      const parsed = schema.safeParse(JSON.parse(text));
      if (parsed.success) return parsed.data;
      context.addIssue({ code: 'custom', message: z.prettifyError(parsed.error) });
    } catch {
      context.addIssue({ code: 'custom', message: 'is not JSON' });
    }
    return z.NEVER;
  });

const duration = z.string().transform((text, context) => {
  try {
    return parseDuration(text);
  } catch {
    context.addIssue({ code: 'custom', message: 'must be a duration such as 10s' });
    return z.NEVER;
  }
});

const toleration = z.strictObject({
  key: z.string().optional(),
  operator: z.enum(['Exists', 'Equal']).optional(),
  value: z.string().optional(),
  effect: z.enum(['NoSchedule', 'PreferNoSchedule', 'NoExecute']).optional(),
  tolerationSeconds: z.int().optional(),
});

const environment = z.object({
  GREENTHREAD_NAMESPACE: z.string().min(1),
  GREENTHREAD_IMAGE: z.string().min(1),
  GREENTHREAD_IMAGE_PULL_POLICY: z.enum(['Always', 'IfNotPresent', 'Never']).default('IfNotPresent'),
  GREENTHREAD_IMAGE_PULL_SECRETS: json(z.array(z.string())).default([]),
  GREENTHREAD_VLLM_IMAGE: z.string().min(1),
  GREENTHREAD_RUNTIME_CLASS: z.string().min(1).default('nvidia'),
  GREENTHREAD_MODELS_PATH: z.string().startsWith('/').default('/mnt/models'),
  GREENTHREAD_KEEP_FREE_PERCENT: z.coerce.number().int().min(0).max(99).default(11),
  GREENTHREAD_TOLERATIONS: json(z.array(toleration)).default([]),
  GREENTHREAD_ROUTE: z.enum(['ingress', 'gateway', 'none']).default('ingress'),
  GREENTHREAD_ROUTE_HOST: z.string().default(''),
  GREENTHREAD_ROUTE_SCHEME: z.enum(['http', 'https']).default('http'),
  GREENTHREAD_INGRESS_CLASS: z.string().default(''),
  GREENTHREAD_INGRESS_ANNOTATIONS: json(z.record(z.string(), z.string())).default({}),
  GREENTHREAD_GATEWAY_NAME: z.string().default(''),
  GREENTHREAD_GATEWAY_NAMESPACE: z.string().default(''),
  GREENTHREAD_GATEWAY_SECTION: z.string().default(''),
  GREENTHREAD_HF_SECRET: z.string().default(''),
  GREENTHREAD_HF_TOKEN_VERSION: z.string().default(''),
  HF_ENDPOINT: z.string().default(''),
  GREENTHREAD_FETCH_PROXY: z.string().default(''),
  GREENTHREAD_FETCH_NO_PROXY: z.string().default(''),
  GREENTHREAD_FETCH_CA_CONFIG_MAP: z.string().default(''),
  GREENTHREAD_PROGRESS_CONFIG_MAP: z.string().default(''),
  GREENTHREAD_FETCH_SERVICE_ACCOUNT: z.string().default(''),
  GREENTHREAD_SILENT_AFTER: duration.default(10_000),
  GREENTHREAD_LISTEN_HOST: z.string().min(1).default('0.0.0.0'),
  GREENTHREAD_LISTEN_PORT: z.coerce.number().int().min(0).max(65_535).default(ports.controllerMetrics),
  GREENTHREAD_LOG_LEVEL: z.enum(levels).default('info'),
  GREENTHREAD_LEASE: z.string().min(1).default('greenthread-controller'),
  POD_NAME: z.string().min(1).optional(),
});
type Environment = z.output<typeof environment>;

export interface ProcessSettings {
  controller: ControllerSettings;
  listen: { host: string; port: number };
  logLevel: Level;
  leaseName: string;
  /** Name of this replica in the election; null: the caller finds one. */
  identity: string | null;
}

function routeOf(env: Environment): RouteSettings {
  const host = env.GREENTHREAD_ROUTE_HOST;
  const scheme = env.GREENTHREAD_ROUTE_SCHEME;
  switch (env.GREENTHREAD_ROUTE) {
    case 'none':
      return { kind: 'none' };
    case 'ingress':
      return {
        kind: 'ingress',
        className: env.GREENTHREAD_INGRESS_CLASS,
        host,
        annotations: env.GREENTHREAD_INGRESS_ANNOTATIONS,
        scheme,
      };
    case 'gateway':
      if (env.GREENTHREAD_GATEWAY_NAME === '') {
        throw new Error('GREENTHREAD_GATEWAY_NAME must name a Gateway when GREENTHREAD_ROUTE is gateway');
      }
      return {
        kind: 'gateway',
        name: env.GREENTHREAD_GATEWAY_NAME,
        namespace: env.GREENTHREAD_GATEWAY_NAMESPACE,
        sectionName: env.GREENTHREAD_GATEWAY_SECTION,
        host,
        scheme,
      };
  }
}

function progressOf(env: Environment): ControllerSettings['progress'] {
  const configMap = env.GREENTHREAD_PROGRESS_CONFIG_MAP;
  const serviceAccount = env.GREENTHREAD_FETCH_SERVICE_ACCOUNT;
  return configMap === '' || serviceAccount === '' ? null : { configMap, serviceAccount };
}

/**
 * @param given the process' environment; empty values count as not set
 * @throws Error that names every variable that is missing or wrong
 */
export function readEnvironment(given: Record<string, string | undefined>): ProcessSettings {
  const set = Object.fromEntries(
    Object.entries(given).filter(([, value]) => value !== undefined && value !== ''),
  );
  const parsed = environment.safeParse(set);
  if (!parsed.success) throw new Error(`the environment is not usable:\n${z.prettifyError(parsed.error)}`);
  const env = parsed.data;
  return {
    controller: {
      namespace: env.GREENTHREAD_NAMESPACE,
      image: env.GREENTHREAD_IMAGE,
      imagePullPolicy: env.GREENTHREAD_IMAGE_PULL_POLICY,
      imagePullSecrets: env.GREENTHREAD_IMAGE_PULL_SECRETS,
      vllmImage: env.GREENTHREAD_VLLM_IMAGE,
      runtimeClassName: env.GREENTHREAD_RUNTIME_CLASS,
      modelsPath: env.GREENTHREAD_MODELS_PATH,
      keepFreePercent: env.GREENTHREAD_KEEP_FREE_PERCENT,
      tolerations: env.GREENTHREAD_TOLERATIONS,
      route: routeOf(env),
      huggingFace: {
        endpoint: env.HF_ENDPOINT,
        secretName: env.GREENTHREAD_HF_SECRET,
        tokenVersion: env.GREENTHREAD_HF_TOKEN_VERSION,
      },
      wayOut: {
        proxy: env.GREENTHREAD_FETCH_PROXY,
        noProxy: env.GREENTHREAD_FETCH_NO_PROXY,
        caConfigMap: env.GREENTHREAD_FETCH_CA_CONFIG_MAP,
      },
      progress: progressOf(env),
      silentAfterMs: env.GREENTHREAD_SILENT_AFTER,
    },
    listen: { host: env.GREENTHREAD_LISTEN_HOST, port: env.GREENTHREAD_LISTEN_PORT },
    logLevel: env.GREENTHREAD_LOG_LEVEL,
    leaseName: env.GREENTHREAD_LEASE,
    identity: env.POD_NAME ?? null,
  };
}
