/** What stands after `up`: how many nodes, which GPUs. */

/** Nodes are 10.77.0.11 and up, pod networks 10.88.1.0/24 and up; a laptop runs out of memory long before. */
export const nodesMax = 32;
/** The most GPUs one simulated node has (hack/gpu's own limit). */
const gpusMax = 64;

export interface NodePlan {
  name: string;
  /** 1 for n1: the last byte of the node's address is 10 + index. */
  index: number;
  /** As gpu-sim-setup takes it: `a40:2` or `a40:1,t4:1`; empty: a node without GPUs. */
  gpus: string;
}

export interface UpOptions {
  nodes: NodePlan[];
  /** Start on the data of the last cluster: images, weights, etcd's objects. */
  keepData: boolean;
}

export class UsageError extends Error {}

/** One node's GPUs: `a40:2`, `a40:1+t4:1` for several types, `none`. */
function parseGpus(text: string): string {
  if (text === 'none') return '';
  const groups = text.split('+');
  let count = 0;
  for (const group of groups) {
    const match = /^([a-z][a-z0-9-]*):([1-9][0-9]?)$/.exec(group);
    if (!match) {
      throw new UsageError(`--gpus: ${JSON.stringify(group)} is not TYPE:COUNT such as a40:2 (or none)`);
    }
    count += Number(match[2]);
  }
  if (count > gpusMax)
    throw new UsageError(`--gpus: ${text} are ${count} GPUs on one node; at most ${gpusMax}`);
  return groups.join(',');
}

function parseNodes(text: string): number {
  const nodes = /^[0-9]+$/.test(text) ? Number(text) : 0;
  if (nodes < 1 || nodes > nodesMax)
    throw new UsageError(`--nodes: ${text} is not a number from 1 to ${nodesMax}`);
  return nodes;
}

/**
 * The nodes that `--nodes` and `--gpus` name together: one entry of `--gpus` per node, in order; further nodes are
 * like the last one; without `--nodes` there are as many as entries.
 *
 * @throws UsageError that names the flag
 */
export function planNodes(nodes: string | undefined, gpus = 'a40:2'): NodePlan[] {
  const entries = gpus.split(',').map(parseGpus);
  const count = nodes === undefined ? entries.length : parseNodes(nodes);
  if (entries.length > count) {
    throw new UsageError(
      `--gpus: ${entries.length} entries for ${count} node(s); raise --nodes or join types of one node with +`,
    );
  }
  if (count > nodesMax) throw new UsageError(`--gpus: ${count} nodes; at most ${nodesMax}`);
  return Array.from({ length: count }, (_, at) => ({
    name: `n${at + 1}`,
    index: at + 1,
    gpus: entries[Math.min(at, entries.length - 1)]!,
  }));
}

/** The flags of `up`. @throws UsageError */
export function parseUp(args: string[]): UpOptions {
  const given: Record<string, string> = {};
  let keepData = false;
  for (let at = 0; at < args.length; at++) {
    const [flag, attached] = args[at]!.split(/=(.*)/s);
    if (flag === '--keep-data' && attached === undefined) {
      keepData = true;
      continue;
    }
    if (flag !== '--nodes' && flag !== '--gpus') throw new UsageError(`up: unknown argument ${args[at]}`);
    const value = attached ?? args[++at];
    if (!value) throw new UsageError(`${flag} needs a value`);
    given[flag] = value;
  }
  return { nodes: planNodes(given['--nodes'], given['--gpus']), keepData };
}
