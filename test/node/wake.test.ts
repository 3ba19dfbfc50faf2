import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createNodeWorld, type NodeWorld, type Pod, until } from './node-world.ts';

const wakes = Number(process.env.GREENTHREAD_TEST_WAKES ?? 200);
let world: NodeWorld;
let pod: Pod;

beforeAll(async () => {
  world = await createNodeWorld('a40:1');
  await world.startAgent();
  pod = await world.addPod('red', {
    share: 0.4,
    settings: { sleep: { idleTimeoutMs: 20 } },
    simulation: {
      bootSeconds: 0.2,
      wakeBaseMs: 5,
      wakeGBPerSecond: 5_000,
      sleepMs: 5,
      tokensPerSecond: 5_000,
    },
  });
  await until('red to have booted', async () => (await world.status(pod)).bootReady);
});
afterAll(() => world?.close());

/** Counts of a histogram's buckets with room, by upper bound in seconds. */
async function buckets(): Promise<Map<number, number>> {
  const found = (await world.metrics()).matchAll(
    /^gthread_agent_wish_to_wake_seconds_bucket\{le="([^"]+)",room="free"\} (\d+)$/gm,
  );
  return new Map([...found].map(([, le, count]) => [Number(le!.replace('+Inf', 'Infinity')), Number(count)]));
}

/** The bucket that a share of all observations lies under, seconds. */
const quantile = (all: Map<number, number>, share: number): number => {
  const total = Math.max(...all.values());
  return [...all].find(([, count]) => count >= total * share)![0];
};

describe('an idle model', () => {
  it(`sleeps and wakes with room ${wakes} times, and nobody waits long for the wake call`, async () => {
    for (let n = 0; n < wakes; n++) {
      await until('red to sleep', async () => (await world.status(pod)).state === 'sleeping');
      expect((await world.chat(pod, `nonce-${n}`, { maxTokens: 2 })).status).toBe(200);
    }
    const all = await buckets();
    const report = { p50: quantile(all, 0.5), p99: quantile(all, 0.99), wakes: Math.max(...all.values()) };
    console.log(
      `wish to wake call, seconds (upper bucket bounds): ${JSON.stringify(report)} ${JSON.stringify([...all])}`,
    );
    const rss = /^process_resident_memory_bytes (\d+)/m.exec(await world.metrics())?.[1];
    console.log(`RSS of the agent: ${Math.round(Number(rss) / 1e6)} MB`);
    expect(report.wakes).toBeGreaterThanOrEqual(wakes);
    expect(world.violations()).toEqual([]);
  });
});
