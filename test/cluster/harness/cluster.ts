/** What the suites on the real cluster do again and again: apply, wait, ask, look at nodes and GPUs. */
import { join } from 'node:path';
import { execa } from 'execa';
import { edgeAddress, repository } from '../../../hack/nodes/places.ts';
import type { KubernetesClient, KubernetesObject } from '../../../platform/kubernetes/client.ts';
import { connect } from '../../../platform/kubernetes/connect.ts';

export const chartNamespace = 'greenthread-system';
const group = '/apis/greenthread.ai/v1alpha1';

let connected: Promise<KubernetesClient> | undefined;
/** One connection for a test file. */
export const client = (): Promise<KubernetesClient> => {
  connected ??= connect();
  return connected;
};

export async function kubectl(...args: string[]): Promise<string> {
  return (await execa('kubectl', args)).stdout;
}

/** `./hack/cluster …`: `node-stop n2`, `apiserver-stop`, … */
export async function cluster(...args: string[]): Promise<string> {
  return (await execa(join(repository, 'hack/cluster'), args)).stdout;
}

/** A command in a node's box. */
export const onNode = (node: string, ...command: string[]): Promise<string> =>
  cluster('exec', node, ...command);

/** Longest wait for a state of the cluster unless told otherwise, ms. */
const stateMsMax = 120_000;
const pollMs = 100;

/**
 * Polls until `probe` answers something; an error of the probe counts as not yet.
 * @throws Error that says what did not come, and what the probe last said
 */
export async function until<T>(
  what: string,
  probe: () => Promise<T | null | undefined | false>,
  msMax = stateMsMax,
): Promise<T> {
  const began = Date.now();
  let last = '';
  for (;;) {
    try {
      const answer = await probe();
      if (answer !== null && answer !== undefined && answer !== false) return answer;
    } catch (error) {
      last = error instanceof Error ? error.message : String(error);
    }
    if (Date.now() - began > msMax)
      throw new Error(`not within ${msMax / 1000} s: ${what}${last && `; last: ${last}`}`);
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
}

export interface Condition {
  type: string;
  status: string;
  reason: string;
  message: string;
}
export interface ModelObject extends KubernetesObject {
  spec: Record<string, unknown>;
  status?: {
    phase?: string;
    node?: string;
    gpus?: string;
    readyReplicas?: number;
    observedGeneration?: number;
    vramPerGPU?: number;
    conditions?: Condition[];
  };
}
export interface Occupant {
  namespace: string;
  model: string;
  pod: string;
  podUid: string;
  state: string;
  awakeBytes?: number;
  residueBytes?: number;
}
export interface GpuObject extends KubernetesObject {
  spec: { nodeName: string; index: number; uuid: string; bindings?: { namespace: string; model: string }[] };
  status?: {
    health?: string;
    healthReason?: string;
    memory?: { totalBytes?: number; usedBytes?: number; freeBytes?: number };
    occupants?: Occupant[];
    conditions?: Condition[];
  };
}

const modelPath = (name: string, namespace: string): string =>
  `${group}/namespaces/${namespace}/models/${name}`;

/** Applies a Model as `kubectl apply` would; fields that a former apply named and this one does not go. */
export async function applyModel(name: string, spec: object, namespace = 'default'): Promise<ModelObject> {
  return (await client()).apply<ModelObject>(
    modelPath(name, namespace),
    { apiVersion: 'greenthread.ai/v1alpha1', kind: 'Model', metadata: { name, namespace }, spec },
    { fieldManager: 'test' },
  );
}

export const getModel = async (name: string, namespace = 'default'): Promise<ModelObject | null> =>
  (await client()).get<ModelObject>(modelPath(name, namespace));

/** Deletes Models and waits until they and their pods are gone. */
export async function deleteModels(...names: (string | [name: string, namespace: string])[]): Promise<void> {
  const all = names.map((each): [string, string] => (typeof each === 'string' ? [each, 'default'] : each));
  for (const [name, namespace] of all) await (await client()).delete(modelPath(name, namespace));
  for (const [name, namespace] of all) {
    await until(`${namespace}/${name} is gone`, async () => (await getModel(name, namespace)) === null);
  }
}

export const gpus = async (): Promise<GpuObject[]> =>
  (await (await client()).list<GpuObject>(`${group}/gpus`)).items;

export const untilModel = (
  name: string,
  what: string,
  holds: (model: ModelObject) => boolean,
  options: { namespace?: string; msMax?: number } = {},
): Promise<ModelObject> =>
  until(
    `${name} ${what}`,
    async () => {
      const model = await getModel(name, options.namespace);
      return model !== null && holds(model) ? model : null;
    },
    options.msMax,
  );

export const untilPhase = (name: string, phases: string[], namespace = 'default'): Promise<ModelObject> =>
  untilModel(name, `is ${phases.join(' or ')}`, ({ status }) => phases.includes(status?.phase ?? ''), {
    namespace,
  });

export const conditionOf = (model: ModelObject | GpuObject, type: string): Condition | undefined =>
  model.status?.conditions?.find((condition) => condition.type === type);

export interface PodObject extends KubernetesObject {
  spec: { nodeName?: string };
  status?: { phase?: string; podIP?: string };
}

/** Pods of a Model, oldest first. */
export async function podsOf(model: string, namespace = 'default'): Promise<PodObject[]> {
  const { items } = await (await client()).list<PodObject>(`/api/v1/namespaces/${namespace}/pods`, {
    labelSelector: `greenthread.ai/model=${model}`,
  });
  return items.sort((a, b) => (a.metadata.creationTimestamp! < b.metadata.creationTimestamp! ? -1 : 1));
}

/** A Model's front door at the cluster's edge. */
export const edgeUrl = (model: string): string => `http://${edgeAddress}/${model}`;

/** Folder of a simulated GPU on its node. */
export const gpuFolder = (uuid: string): string => `/run/gpu-sim/${uuid}`;

/** What the GPU itself saw go wrong: over-commit, memory that grew under a boot, a token without its bytes. */
export async function violations(): Promise<string[]> {
  const lines = await Promise.all(
    (await gpus()).map(({ spec: { nodeName, uuid } }) =>
      onNode(nodeName, 'cat', `${gpuFolder(uuid)}/violations`),
    ),
  );
  return lines.flatMap((text) => text.split('\n')).filter((line) => line !== '');
}

/** Starts the GPUs' own books anew. */
export async function clearViolations(): Promise<void> {
  for (const {
    spec: { nodeName, uuid },
  } of await gpus()) {
    await onNode(
      nodeName,
      'sh',
      '-c',
      `: > ${gpuFolder(uuid)}/violations; : > ${gpuFolder(uuid)}/tokens.log`,
    );
  }
}

/** The agent's pod on a node. */
export async function agentPod(node: string): Promise<PodObject> {
  const { items } = await (await client()).list<PodObject>(`/api/v1/namespaces/${chartNamespace}/pods`, {
    labelSelector: 'app.kubernetes.io/component=agent',
    fieldSelector: `spec.nodeName=${node}`,
  });
  if (!items[0]) throw new Error(`no agent on ${node}`);
  return items[0];
}

/** Process ids, inside a node's box, whose command line holds the text. */
export async function pidsOn(node: string, text: string): Promise<number[]> {
  const found = await onNode(
    node,
    'sh',
    '-c',
    `grep -al -- '${text}' /proc/[0-9]*/cmdline 2>/dev/null || true`,
  );
  return found
    .split('\n')
    .map((path) => Number(/^\/proc\/(\d+)\//.exec(path)?.[1]))
    .filter((pid) => pid > 1);
}
