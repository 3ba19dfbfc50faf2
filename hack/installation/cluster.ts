/** The development cluster as demo and tests use it: brought up when it is not, with kubectl and helm of its version. */
import { join } from 'node:path';
import { execa } from 'execa';

const command = join(import.meta.dirname, '../cluster');

export interface Cluster {
  kubeconfig: string;
  /** Environment in which kubectl and helm speak to this cluster. */
  env: Record<string, string>;
  /** Runs a command in a node's box and answers with its output. */
  inNode(node: string, command: string[]): Promise<string>;
  /** `node-stop n2`, `apiserver-stop`, … of ./hack/cluster. */
  control(...args: string[]): Promise<void>;
}

async function cluster(): Promise<Cluster> {
  const [kubeconfig, bin] = await Promise.all(
    ['kubeconfig', 'bin'].map(async (verb) => (await execa(command, [verb])).stdout.trim()),
  );
  return {
    kubeconfig: kubeconfig!,
    env: { KUBECONFIG: kubeconfig!, PATH: `${bin}:${process.env.PATH}` },
    inNode: async (node, words) => (await execa(command, ['exec', node, ...words])).stdout,
    control: async (...args) => void (await execa(command, args)),
  };
}

/** Brings the cluster up as asked (`--gpus a40:2`), with its progress shown. */
export async function upCluster(args: string[]): Promise<Cluster> {
  await execa(command, ['up', ...args], { stdio: ['ignore', 'ignore', 'inherit'] });
  return cluster();
}

/** Ends the cluster; nothing of it stays. */
export const downCluster = (): Promise<unknown> =>
  execa(command, ['down'], { stdio: ['ignore', 'ignore', 'inherit'] });
