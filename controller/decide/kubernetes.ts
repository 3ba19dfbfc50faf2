/** The parts of Kubernetes' own objects that decisions read; observe/ drops the rest. */
import type { GpuSpec, GpuStatus } from '#api/gpu.ts';
import type { ModelSpec, ModelStatus } from '#api/model.ts';
import type { KubernetesObject, OwnerReference } from '#platform/kubernetes/client.ts';

export interface Model extends KubernetesObject {
  spec: ModelSpec;
  status?: ModelStatus;
}

export interface Gpu extends KubernetesObject {
  spec: GpuSpec;
  status?: GpuStatus;
}

export interface Taint {
  key: string;
  value?: string;
  effect: string;
}

export interface Toleration {
  key?: string | undefined;
  operator?: 'Exists' | 'Equal' | undefined;
  value?: string | undefined;
  effect?: 'NoSchedule' | 'PreferNoSchedule' | 'NoExecute' | undefined;
  tolerationSeconds?: number | undefined;
}

export interface ObjectCondition {
  type: string;
  status: string;
  reason?: string;
  message?: string;
  lastTransitionTime?: string;
}

export interface Node extends KubernetesObject {
  spec?: { unschedulable?: boolean; taints?: Taint[] };
  status?: { conditions?: ObjectCondition[] };
}

export interface ContainerStatus {
  name: string;
  ready?: boolean;
  restartCount?: number;
  state?: ContainerState;
  lastState?: ContainerState;
}

export interface ContainerState {
  waiting?: { reason?: string; message?: string };
  running?: { startedAt?: string };
  terminated?: { exitCode?: number; reason?: string; message?: string; finishedAt?: string };
}

export interface Pod extends KubernetesObject {
  spec?: { nodeName?: string; nodeSelector?: Record<string, string>; [field: string]: unknown };
  status?: {
    phase?: string;
    reason?: string;
    message?: string;
    conditions?: ObjectCondition[];
    initContainerStatuses?: ContainerStatus[];
    containerStatuses?: ContainerStatus[];
  };
}

/** The ConfigMap in which fetch Jobs tell their progress, each under its name. */
export interface ProgressNotes extends KubernetesObject {
  data?: Record<string, string>;
}

type Others = Record<string, unknown>;
interface JobVolume {
  name: string;
  hostPath?: { path: string; type?: string };
}

export interface Job extends KubernetesObject {
  /** Of its volumes the one that holds the weights. */
  spec?: { template: { spec: { volumes: JobVolume[] } & Others } & Others } & Others;
  status?: { conditions?: ObjectCondition[]; active?: number; succeeded?: number; failed?: number };
}

export interface Service extends KubernetesObject {
  spec?: { clusterIP?: string; [field: string]: unknown };
}

/** An Ingress or an HTTPRoute. */
export interface Route extends KubernetesObject {
  status?: { loadBalancer?: { ingress?: { ip?: string; hostname?: string }[] } };
}

/** `namespace/name` of an object; the name alone when it has no namespace. */
export const keyOf = (object: KubernetesObject): string =>
  object.metadata.namespace ? `${object.metadata.namespace}/${object.metadata.name}` : object.metadata.name;

/** The status of a condition; null when it is not there. */
export const conditionStatus = (
  conditions: readonly ObjectCondition[] | undefined,
  type: string,
): string | null => conditions?.find((condition) => condition.type === type)?.status ?? null;

export const isTerminating = (object: KubernetesObject): boolean =>
  object.metadata.deletionTimestamp !== undefined;

/** ms since the epoch of the object's creation; 0 when the API server has not said it. */
export const createdAtMs = (object: KubernetesObject): number =>
  object.metadata.creationTimestamp ? Date.parse(object.metadata.creationTimestamp) : 0;

/** Makes the Model the owner: what it owns goes with it, should the finalizer be taken away by hand. */
export const ownerOf = (model: Model): OwnerReference => ({
  apiVersion: model.apiVersion,
  kind: model.kind,
  name: model.metadata.name,
  uid: model.metadata.uid ?? '',
  controller: true,
  blockOwnerDeletion: true,
});
