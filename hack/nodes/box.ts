/** One node's box: namespaces around everything a node runs, entered, commanded and ended from here. */
import { spawn } from 'node:child_process';
import { existsSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { appendFile, chmod, mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa, type Options } from 'execa';
import { systemPath } from '../setup/debian-packages.ts';
import { pki } from './certificates.ts';
import { makeCgroups, removeCgroups } from './cgroups.ts';
import { asScript, type Component, controlPlane, nodePrograms } from './components.ts';
import { connectBox, removeLink } from './network.ts';
import { cniConfig, containerdConfig, kubeletConfig } from './node-files.ts';
import { nodeAddress, nodeFolder, nodePods, repository } from './places.ts';
import { childOf, identify, isAlive, kill, type ProcessIdentity } from './processes.ts';
import { until } from './progress.ts';
import { type ClusterRecord, type NodeRecord, writeRecord } from './record.ts';

/** Namespaces and mounts are made at once; only a stuck machine needs longer, ms. */
const boxMsMax = 10_000;
/** A component is started or ended by the box's PID 1 within a second of being told, ms. */
const commandMsMax = 15_000;
/** Where the box bind-mounts the node's own folders; made on this machine when missing. */
export const mountPoints = [
  '/var/lib/kubelet',
  '/var/lib/containerd',
  '/var/lib/cni',
  '/var/log/pods',
  '/var/log/containers',
  '/mnt/models',
];

const isolation = ['--mount', '--net', '--pid', '--uts', '--ipc', '--fork', '--kill-child', '--mount-proc'];

const boxPath = ({ programs }: ClusterRecord) =>
  [programs.cluster, programs.gpu, systemPath].filter(Boolean).join(':');

/** Labels that GPU feature discovery would give the node; read from the simulated GPUs inside the box. */
function gpuLabels(box: ProcessIdentity): string {
  const folder = `/proc/${box.pid}/root/run/gpu-sim`;
  if (!existsSync(folder)) return '';
  const names = readdirSync(folder)
    .map((name) => join(folder, name, 'gpu.json'))
    .filter((file) => existsSync(file))
    .map((file) => (JSON.parse(readFileSync(file, 'utf8')) as { name: string }).name);
  if (names.length === 0) return '';
  return `nvidia.com/gpu.present=true,nvidia.com/gpu.product=${names[0]!.replaceAll(' ', '-')}`;
}

/** Ends a process when the one that started it ends, however that was. */
const withParent = ['setpriv', '--pdeathsig', 'KILL'];

/** Runs a command inside a box, which ends with this process. Relative paths are taken from `/`. */
export function inBox(record: ClusterRecord, node: NodeRecord, command: string[], options: Options = {}) {
  if (!node.box || !isAlive(node.box))
    throw new Error(`${node.name} is not running: ./hack/cluster node-start ${node.name}`);
  const namespaces = ['-t', String(node.box.pid), '-m', '-n', '-p', '-u', '-i', '--wd=/'];
  const env = { PATH: boxPath(record), KUBECONFIG: record.kubeconfig };
  // nsenter forks into the pid namespace: both it and its child must be told.
  const words = [...withParent, 'nsenter', ...namespaces, '--', ...withParent, ...command];
  return execa(words[0]!, words.slice(1), { ...options, env: { ...env, ...options.env } });
}

async function writeComponents(node: NodeRecord, components: Component[]): Promise<void> {
  const folder = join(nodeFolder(node.name), 'components');
  await mkdir(folder, { recursive: true });
  for (const component of components) {
    const file = join(folder, component.name);
    await writeFile(file, asScript(component));
    await chmod(file, 0o755);
  }
}

/** The files that a node's programs read. Labels are known only when the box has its GPUs. */
async function writeNodeFiles(record: ClusterRecord, node: NodeRecord): Promise<void> {
  const folder = nodeFolder(node.name);
  const files = {
    containerd: join(folder, 'containerd.toml'),
    kubelet: join(folder, 'kubelet.json'),
    etcdData: join(folder, 'etcd'),
  };
  const cniFolder = join(folder, 'cni');
  await mkdir(cniFolder, { recursive: true });
  await writeFile(join(cniFolder, '10-greenthread.conflist'), cniConfig(nodePods(node.index)));
  const nvidiaRuntime = record.programs.gpu ? join(record.programs.gpu, 'nvidia-container-runtime') : null;
  await writeFile(files.containerd, containerdConfig({ cniFolder, nvidiaRuntime }));
  await writeFile(files.kubelet, kubeletConfig(node.name, pki('ca.crt')));
  const labels = node.box ? gpuLabels(node.box) : '';
  const programs = nodePrograms({ name: node.name, index: node.index, labels }, files);
  await writeComponents(node, node.index === 1 ? [...programs, ...controlPlane(files)] : programs);
}

/**
 * Starts a box without any component in it. Each thing that would stay behind is in the record before the box goes on.
 *
 * @param record is changed and written
 */
export async function startBox(record: ClusterRecord, node: NodeRecord): Promise<void> {
  const folder = nodeFolder(node.name);
  await mkdir(join(folder, 'logs'), { recursive: true });
  await rm(join(folder, 'ready'), { force: true });
  await removeLink(node.index);
  await makeCgroups(node.name);
  const log = openSync(join(folder, 'logs/box.log'), 'a');
  const others = record.nodes.filter(({ index }) => index !== node.index);
  const env = {
    PATH: boxPath(record),
    HOME: '/root',
    NODE: node.name,
    FOLDER: folder,
    ADDRESS: nodeAddress(node.index),
    PODS: nodePods(node.index),
    ROUTES: others.map(({ index }) => `${nodePods(index)}.0/24=${nodeAddress(index)}`).join(' '),
  };
  const shell = ['bash', join(repository, 'hack/nodes/box.sh')];
  const parent = spawn('unshare', [...isolation, '--propagation', 'private', ...shell], {
    cwd: '/',
    env,
    detached: true,
    stdio: ['pipe', log, log],
  });
  parent.unref();
  let failed: Error | null = null;
  parent.on('error', (error) => {
    failed = error;
  });
  // The box may end before it reads its "go": then the wait below says so.
  parent.stdin!.on('error', () => undefined);
  node.parent = parent.pid ? identify(parent.pid) : null;
  await writeRecord(record);
  await until(`the box of ${node.name} (see ${folder}/logs/box.log)`, boxMsMax, () => {
    if (failed) throw failed;
    const child = parent.pid ? childOf(parent.pid) : null;
    node.box = child ? identify(child) : null;
    return node.box !== null;
  });
  node.stopped = false;
  await writeRecord(record);
  await connectBox(node.index, node.box!.pid);
  parent.stdin!.end('go\n');
  await until(`mounts and network of ${node.name} (see ${folder}/logs/box.log)`, boxMsMax, () =>
    existsSync(join(folder, 'ready')),
  );
  if (record.programs.gpu && node.gpus) {
    await inBox(record, node, [
      'gpu-sim-setup',
      '--node',
      node.name,
      '--gpus',
      node.gpus,
      '--dir',
      '/run/gpu-sim',
    ]);
  }
  await writeNodeFiles(record, node);
}

/** Ends a box and everything in it, and removes what outlives it. */
export async function endBox(node: NodeRecord): Promise<void> {
  if (node.box) await kill(node.box);
  if (node.parent) await kill(node.parent);
  await removeLink(node.index);
  await removeCgroups(node.name);
}

/** Names of all programs that a node has. */
export const componentsOf = (node: NodeRecord): string[] =>
  readdirSync(join(nodeFolder(node.name), 'components'));

const pidFile = (node: NodeRecord, component: string) => join(nodeFolder(node.name), 'pids', component);

export const isRunning = (node: NodeRecord, component: string): boolean =>
  existsSync(pidFile(node, component));

/** Tells the box's PID 1 to start or end a component, and waits until that is done. Ending is by SIGKILL. */
export async function command(node: NodeRecord, verb: 'start' | 'stop', component: string): Promise<void> {
  const folder = nodeFolder(node.name);
  if (!existsSync(join(folder, 'components', component)))
    throw new Error(`${node.name} has no component ${component}`);
  if (!node.box || !isAlive(node.box))
    throw new Error(`${node.name} is not running: ./hack/cluster node-start ${node.name}`);
  await appendFile(join(folder, 'control'), `${verb} ${component}\n`);
  await until(
    `${verb} of ${component} on ${node.name}`,
    commandMsMax,
    () => isRunning(node, component) === (verb === 'start'),
  );
}
