/** Where the cluster's things lie on this machine, and its addresses. */
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const repository = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');

/** Everything built or downloaded, outside the tree (hack/setup/environment.sh sets it). */
export const cache =
  process.env.GREENTHREAD_CACHE ??
  join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'greenthread');

/** What is running: one cluster for each machine, whoever started it. On a reboot it is gone, as the cluster is. */
export const runFolder = '/run/greenthread-dev';
export const recordFile = join(runFolder, 'cluster.json');
export const lockFile = '/run/greenthread-dev.lock';

/** Certificates, nodes' data and logs. */
export const stateFolder = join(cache, 'cluster-state');
export const kubeconfigFile = join(stateFolder, 'admin.kubeconfig');

export const bridge = { name: 'gt0', address: '10.77.0.1', prefix: 24 } as const;
export const podNetwork = '10.88.0.0/16';
export const serviceNetwork = '10.96.0.0/16';
/** The first address of the service network: the API server as pods know it. */
export const apiServiceAddress = '10.96.0.1';

export const nodeAddress = (index: number): string => `10.77.0.${10 + index}`;
/** The pod network of a node, without its last byte. */
export const nodePods = (index: number): string => `10.88.${index}`;
export const nodeFolder = (name: string): string => join(stateFolder, 'nodes', name);
/** The node's own cgroup, parent of its pods. */
export const cgroupName = (name: string): string => `greenthread-${name}`;
export const hostLink = (index: number): string => `gtv${index}`;

/** Node 1 runs the control plane and the edge. */
export const edgeAddress = nodeAddress(1);
export const apiServer = `https://${nodeAddress(1)}:6443`;
