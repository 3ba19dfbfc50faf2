/** What the chart decides for the controller; observe/environment.ts reads it from the environment. */
import type { Toleration } from './kubernetes.ts';

/** How Models are reached from outside: an Ingress each, an HTTPRoute each, or by their Service alone. */
export type RouteSettings =
  | {
      kind: 'ingress';
      className: string;
      /** Empty: the rule matches every host. */
      host: string;
      annotations: Record<string, string>;
      scheme: 'http' | 'https';
    }
  | {
      kind: 'gateway';
      name: string;
      namespace: string;
      /** Listener of the Gateway; empty: all of them. */
      sectionName: string;
      host: string;
      scheme: 'http' | 'https';
    }
  | { kind: 'none' };

export interface ControllerSettings {
  /** The chart's namespace: fetch Jobs and the token live there. */
  namespace: string;
  /** Our own image: sidecar, launcher, converter. */
  image: string;
  imagePullPolicy: 'Always' | 'IfNotPresent' | 'Never';
  vllmImage: string;
  imagePullSecrets: string[];
  runtimeClassName: string;
  /** The weights' folder on the node; inside pods it is always /mnt/models. */
  modelsPath: string;
  /** Of a disk that the kubelet has too, what fetches leave free, percent. */
  keepFreePercent: number;
  /** Tolerations of every model pod and fetch Job, next to the Model's own. */
  tolerations: Toleration[];
  route: RouteSettings;
  /** `tokenVersion` changes with the token: the controller may not read Secrets. */
  huggingFace: { endpoint: string; secretName: string; tokenVersion: string };
  /** How fetch Jobs reach the hub: an HTTP proxy, what goes around it, a ConfigMap with further certificates under `ca.crt`; empty: none. */
  wayOut: { proxy: string; noProxy: string; caConfigMap: string };
  /** Where fetch Jobs tell their progress, and as whom; null: they do not. */
  progress: { configMap: string; serviceAccount: string } | null;
  /** A node or agent that is silent for this long counts as gone, ms. */
  silentAfterMs: number;
}

/** Labels of this system's own pods in the chart's namespace. */
export const partOf = 'greenthread';
export const components = {
  agent: 'agent',
  fetch: 'fetch',
  model: 'model',
  controller: 'controller',
} as const;

/** Annotations that only the controller reads. */
export const ownAnnotations = {
  /** Hash of what a pod takes from its Model alone; pods that differ in the rest are merely outdated. */
  specHash: 'greenthread.ai/spec-hash',
  /** Hash of an applied object, so that a removed field is seen as a difference. */
  appliedHash: 'greenthread.ai/applied-hash',
  /** Result of a finished fetch, kept on the Job: its pod may be cleaned up. */
  fetchResult: 'greenthread.ai/fetch-result',
  /** Hash of what a fetch's outcome depends on (token, endpoint, image, …), on the Job. */
  fetchInputs: 'greenthread.ai/fetch-inputs',
} as const;
