/** The whole cluster up and down, a node or the API server away and back. */
import { existsSync } from 'node:fs';
import { mkdir, rm, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { KubernetesClient } from '#platform/kubernetes/client.ts';
import { connect } from '#platform/kubernetes/connect.ts';
import type { Image } from '../oci/archive.ts';
import { buildImages } from '../oci/images.ts';
import { command, componentsOf, endBox, mountPoints, startBox } from './box.ts';
import { ensureCertificates } from './certificates.ts';
import { importImages, waitForContainerd } from './imports.ts';
import { makeBridge, removeBridge, setLink } from './network.ts';
import { pauseImage } from './node-files.ts';
import { applyObjects } from './objects.ts';
import type { UpOptions } from './options.ts';
import {
  apiServer,
  cache,
  edgeAddress,
  kubeconfigFile,
  nodeFolder,
  repository,
  stateFolder,
} from './places.ts';
import { isAlive } from './processes.ts';
import { ensurePrograms } from './programs.ts';
import { say, until } from './progress.ts';
import {
  type ClusterRecord,
  findNode,
  type NodeRecord,
  readRecord,
  removeRecord,
  writeRecord,
} from './record.ts';
import { prepareMachine } from './requirements.ts';

/** From its start to /readyz on two busy cores, ms. */
const apiServerMsMax = 120_000;
/** From the kubelet's start to the node's Ready, ms. */
const nodeReadyMsMax = 120_000;
const edgeMsMax = 30_000;

const leading = (record: ClusterRecord): NodeRecord => record.nodes[0]!;

export const boxAlive = (node: NodeRecord): boolean => node.box !== null && isAlive(node.box);

async function withClient<T>(
  record: ClusterRecord,
  use: (client: KubernetesClient) => Promise<T>,
): Promise<T> {
  const client = await connect({ kubeconfig: record.kubeconfig });
  try {
    return await use(client);
  } finally {
    await client.close();
  }
}

export async function apiReady(record: ClusterRecord): Promise<boolean> {
  return withClient(record, async (client) => {
    // /readyz speaks no JSON; the version does, and only a server that answers for this certificate is ours.
    await client.get('/version');
    return (await client.get('/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node')) !== null;
  });
}

const waitForApi = (record: ClusterRecord) => until('the API server', apiServerMsMax, () => apiReady(record));

interface NodeStatus {
  status: { conditions: { type: string; status: string; lastHeartbeatTime: string }[] };
}

/** Ready, as said by a kubelet that lives now: after a restart the old condition stands for some seconds. */
async function waitForNode(record: ClusterRecord, node: NodeRecord, since: number): Promise<void> {
  await withClient(record, (client) =>
    until(`${node.name} Ready (see ${nodeFolder(node.name)}/logs/kubelet.log)`, nodeReadyMsMax, async () => {
      const found = await client.get<NodeStatus>(`/api/v1/nodes/${node.name}`);
      const ready = found?.status.conditions.find(({ type }) => type === 'Ready');
      // Kubernetes' times have whole seconds.
      return ready?.status === 'True' && Date.parse(ready.lastHeartbeatTime) + 1000 > since;
    }),
  );
}

async function makeMountPoints(record: ClusterRecord): Promise<void> {
  for (const folder of mountPoints) {
    const missing: string[] = [];
    for (let at = folder; !existsSync(at); at = dirname(at)) missing.unshift(at);
    record.madeFolders.push(...missing.filter((path) => !record.madeFolders.includes(path)));
    await writeRecord(record);
    await mkdir(folder, { recursive: true });
  }
}

/** Starts what a node is, images first: a pod must never find its image missing. */
async function joinNode(record: ClusterRecord, node: NodeRecord, images: Promise<Image[]>): Promise<void> {
  const since = Date.now();
  await waitForContainerd(record, node);
  const imported = await importImages(record, node, await images);
  if (imported.length > 0) say(`${node.name}: imported ${imported.join(', ')}`);
  await command(node, 'start', 'kubelet');
  await command(node, 'start', 'kube-proxy');
  await waitForNode(record, node, since);
  say(`${node.name}: Ready${node.gpus ? `, GPUs ${node.gpus}` : ''}`);
}

async function startControlPlane(record: ClusterRecord): Promise<void> {
  const node = leading(record);
  await command(node, 'start', 'etcd');
  await command(node, 'start', 'kube-apiserver');
  await waitForApi(record);
  say(`API server answers at ${apiServer}`);
  await command(node, 'start', 'kube-controller-manager');
  await command(node, 'start', 'kube-scheduler');
  await withClient(record, applyObjects);
}

async function startEdge(record: ClusterRecord): Promise<void> {
  await command(leading(record), 'start', 'edge');
  await until(
    `the edge at http://${edgeAddress} (see ${nodeFolder('n1')}/logs/edge.log)`,
    edgeMsMax,
    async () => {
      const response = await fetch(`http://${edgeAddress}/`, { signal: AbortSignal.timeout(2_000) });
      await response.body?.cancel();
      return response.status === 404;
    },
  );
  say(`edge answers at http://${edgeAddress}`);
}

const sources = () => ({ repository, store: join(cache, 'images'), pauseName: pauseImage, say });

/** Builds images and brings them to every running node. */
export async function updateImages(record: ClusterRecord): Promise<void> {
  const images = await buildImages(sources());
  for (const node of record.nodes.filter(boxAlive)) {
    const imported = await importImages(record, node, images);
    say(
      `${node.name}: ${imported.length > 0 ? `imported ${imported.join(', ')}` : 'has all images already'}`,
    );
  }
}

/** @returns the cluster that is up, if it is the one asked for; without node 1 there is none */
function standing(options: UpOptions): ClusterRecord | null {
  const record = readRecord();
  if (!record?.complete) return null;
  const first = leading(record);
  if (!first.stopped && !boxAlive(first)) return null;
  const shape = (nodes: UpOptions['nodes']) =>
    nodes.map(({ name, gpus }) => `${name} ${gpus || 'none'}`).join(', ');
  if (shape(record.nodes) !== shape(options.nodes)) {
    throw new Error(`a cluster of other nodes is up (${shape(record.nodes)}): ./hack/cluster down first`);
  }
  return record;
}

/** Brings back what was stopped, cut off or killed since, and our images to what the tree holds. */
async function refresh(record: ClusterRecord): Promise<void> {
  say('the cluster is up already');
  const programs = await ensurePrograms();
  if (programs.cluster !== record.programs.cluster || programs.gpu !== record.programs.gpu) {
    say('  its programs are older than the tree: ./hack/cluster down, then up, renews them');
  }
  const missing = record.nodes.filter((node) => !boxAlive(node));
  for (const node of record.nodes.filter(boxAlive)) {
    await setLink(node.index, 'up');
    for (const name of componentsOf(node)) await command(node, 'start', name);
  }
  for (const node of missing) await startNode(node.name);
  await waitForApi(record);
  await updateImages(record);
}

export async function up(options: UpOptions): Promise<void> {
  const before = standing(options);
  if (before) return refresh(before);
  await prepareMachine();
  const programs = await ensurePrograms();
  if (readRecord()) {
    say('cleaning up what an earlier cluster left');
    await down();
  }
  if (!options.keepData) await rm(join(stateFolder, 'nodes'), { recursive: true, force: true });
  await ensureCertificates(options.nodes);
  const record: ClusterRecord = {
    stateFolder,
    kubeconfig: kubeconfigFile,
    programs,
    nodes: options.nodes.map((node) => ({ ...node, parent: null, box: null, stopped: false })),
    madeFolders: [],
    complete: false,
  };
  await writeRecord(record);
  await makeMountPoints(record);
  await makeBridge();
  for (const node of record.nodes) {
    await startBox(record, node);
    await command(node, 'start', 'containerd');
  }
  say(`${record.nodes.length} box(es) started`);
  const images = buildImages(sources());
  // Its failure is thrown where it is awaited; meanwhile it is not an unhandled one.
  images.catch(() => undefined);
  await startControlPlane(record);
  await Promise.all([startEdge(record), ...record.nodes.map((node) => joinNode(record, node, images))]);
  record.complete = true;
  await writeRecord(record);
}

/** Ends what the record names and removes what it left; without a record there is nothing to do. */
export async function down(): Promise<void> {
  const record = readRecord();
  if (!record) {
    say('no cluster is up');
    return;
  }
  for (const node of record.nodes) await endBox(node);
  await removeBridge();
  for (const folder of record.madeFolders.toReversed()) {
    await rmdir(folder).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT' && error.code !== 'ENOTEMPTY') throw error;
    });
  }
  await removeRecord();
  say('the cluster is down');
}

export async function stopNode(name: string | undefined): Promise<void> {
  const record = readRecord();
  const node = findNode(record, name);
  node.stopped = true;
  await writeRecord(record!);
  await endBox(node);
  say(`${node.name} is dead`);
}

/** Starts a node again with its disk as it was; its GPUs come back empty. */
export async function startNode(name: string | undefined): Promise<void> {
  const record = readRecord();
  const node = findNode(record, name);
  if (boxAlive(node)) {
    say(`${node.name} runs already`);
    return;
  }
  await endBox(node);
  await startBox(record!, node);
  await command(node, 'start', 'containerd');
  if (node.index === 1) await startControlPlane(record!);
  await joinNode(record!, node, buildImages(sources()));
  if (node.index === 1) await startEdge(record!);
}

export async function component(
  verb: 'start' | 'stop',
  nodeName: string | undefined,
  name: string,
): Promise<void> {
  const record = readRecord();
  await command(findNode(record, nodeName), verb, name);
  if (verb === 'start' && name === 'kube-apiserver') await waitForApi(record!);
  say(`${name} ${verb === 'start' ? 'runs' : 'is stopped'} on ${nodeName}`);
}
