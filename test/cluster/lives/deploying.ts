/** Models that end with their test, whatever became of it; and the upstream models, images and Secrets that they need. */
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { type ModelOptions, writeModel } from '../../../hack/hub/models.ts';
import type { RepositoryConfig } from '../../../hack/hub/repository.ts';
import { hubFiles } from '../../../hack/installation/hub.ts';
import {
  applyModel,
  client,
  conditionOf,
  deleteModels,
  gpus,
  kubectl,
  type ModelObject,
  type Occupant,
  onNode,
  podsOf,
  until,
  untilModel,
} from '../harness/cluster.ts';
import { send } from './asking.ts';

/** What vitest hands to each test, as far as it is used here. */
export interface Ending {
  onTestFinished(end: () => void | Promise<void>): void;
}

/** Does this when the test ends, also when it fails. */
export function atEnd(test: Ending, end: () => Promise<unknown>): void {
  test.onTestFinished(async () => {
    await end();
  });
}

/** Applies a Model that is deleted when the test ends. */
export async function deploy(
  test: Ending,
  name: string,
  spec: object,
  namespace = 'default',
): Promise<ModelObject> {
  atEnd(test, () => deleteModels([name, namespace]));
  return applyModel(name, spec, namespace);
}

/** Its spec is in force, it takes requests, and the edge knows the way: balancers follow a pod with a delay of their own. */
export async function untilReady(name: string, namespace = 'default'): Promise<ModelObject> {
  const model = await untilModel(
    name,
    'takes requests as its spec says',
    (each) => {
      const available = conditionOf(each, 'Available');
      return (
        each.status?.observedGeneration === each.metadata.generation &&
        available?.status === 'True' &&
        available.reason === 'Available'
      );
    },
    { namespace },
  );
  const path = `/${namespace}/${name}/status`;
  await until(`${path} is reached`, async () => (await send(path)).status === 200);
  return model;
}

/** A namespace for one test. Nothing in it outlives the test. */
export async function makeNamespace(test: Ending, name: string): Promise<void> {
  atEnd(test, () => kubectl('delete', 'namespace', name, '--ignore-not-found'));
  await kubectl('create', 'namespace', name);
}

/** An upstream model on the hub, of its own for one test: with an engine that behaves as told, or a gate before its files. */
export async function makeUpstream(
  test: Ending,
  id: string,
  options: ModelOptions & { hub?: RepositoryConfig } = {},
): Promise<void> {
  atEnd(test, () => rm(join(hubFiles, id), { recursive: true, force: true }));
  await writeModel(hubFiles, id, options);
  if (options.hub) await writeFile(join(hubFiles, id, '.hub.json'), JSON.stringify(options.hub));
}

/** A second name for an image that every node has. */
export async function tagImage(from: string, to: string, nodes: string[]): Promise<void> {
  for (const node of nodes) await onNode(node, 'ctr', '-n', 'k8s.io', 'images', 'tag', '--force', from, to);
}

/** Makes a Secret with these keys, or changes it. */
export async function putSecret(name: string, keys: Record<string, string>): Promise<void> {
  await (await client()).apply(
    `/api/v1/namespaces/default/secrets/${name}`,
    { apiVersion: 'v1', kind: 'Secret', metadata: { name, namespace: 'default' }, stringData: keys },
    { fieldManager: 'test', force: true },
  );
}

export interface EventObject {
  type: string;
  reason: string;
  message: string;
}

/** Events that tell of one Model. */
export async function eventsOf(name: string, namespace = 'default'): Promise<EventObject[]> {
  const { items } = await (await client()).list<EventObject>(`/api/v1/namespaces/${namespace}/events`, {
    fieldSelector: `involvedObject.name=${name},involvedObject.kind=Model`,
  });
  return items;
}

export const podUids = async (name: string, namespace = 'default'): Promise<string[]> =>
  (await podsOf(name, namespace)).map(({ metadata }) => metadata.uid!);

/** The line of a kubectl table that begins with these words, its columns apart; null when there is none. */
export async function row(args: string[], ...begins: string[]): Promise<string[] | null> {
  const { stdout } = await execa('kubectl', args);
  const found = stdout
    .split('\n')
    .map((line) => line.trim().split(/\s{2,}/))
    .find((columns) => begins.every((word, at) => columns[at] === word));
  return found ?? null;
}

/** The header of a kubectl table. */
export async function header(args: string[]): Promise<string[]> {
  return (await kubectl(...args)).split('\n')[0]!.trim().split(/\s+/);
}

/** Applies a spec and waits until a pod of its form is alone and takes requests. */
export async function roll(name: string, spec: object): Promise<void> {
  const [before] = await podUids(name);
  await applyModel(name, spec);
  await untilReady(name);
  await until(`${name} has one pod, a new one`, async () => {
    const uids = await podUids(name);
    return uids.length === 1 && uids[0] !== before;
  });
}

export interface PodOccupant extends Occupant {
  popular?: boolean;
}

/** What the agents say of a Model's pods on their GPUs. */
export const occupantsOf = async (model: string): Promise<PodOccupant[]> =>
  (await gpus()).flatMap(({ status }) => status?.occupants ?? []).filter((each) => each.model === model);
