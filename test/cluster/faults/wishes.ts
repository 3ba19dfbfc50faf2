/** The agent's own histogram of the time from a sidecar's wish to the wake call. */
import { request } from 'undici';
import { agentPod } from '../harness/cluster.ts';

const metricsPort = 9401;

/** /metrics of a node's agent. */
export async function agentMetrics(node: string): Promise<string> {
  const { status } = await agentPod(node);
  if (!status?.podIP) throw new Error(`the agent of ${node} has no address`);
  const { body } = await request(`http://${status.podIP}:${metricsPort}/metrics`);
  return body.text();
}

export interface Wishes {
  count: number;
  /** Upper bound in seconds, cumulative count. */
  buckets: [bound: number, count: number][];
}

/** Wakes with room since the agent's start. */
export async function wishes(node: string): Promise<Wishes> {
  const found = (await agentMetrics(node)).matchAll(
    /^gthread_agent_wish_to_wake_seconds_bucket\{le="([^"]+)",room="free"\} (\d+)$/gm,
  );
  const buckets = [...found].map(([, le, count]): [number, number] => [
    Number(le!.replace('+Inf', 'Infinity')),
    Number(count),
  ]);
  return { buckets, count: buckets.at(-1)?.[1] ?? 0 };
}

/** p50 and p99 between two looks, as the upper bounds of their buckets. */
export function quantiles(before: Wishes, after: Wishes): string {
  const counts = after.buckets.map(([bound, count], at): [number, number] => [
    bound,
    count - (before.buckets[at]?.[1] ?? 0),
  ]);
  const total = counts.at(-1)?.[1] ?? 0;
  const under = (share: number) =>
    (counts.find(([, count]) => count >= share * total)?.[0] ?? Number.NaN) * 1000;
  return `p50 <= ${under(0.5)} ms, p99 <= ${under(0.99)} ms`;
}
