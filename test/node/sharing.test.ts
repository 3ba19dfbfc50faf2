import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createNodeWorld, type NodeWorld, type Pod, until } from './node-world.ts';

const requests = 200;
let world: NodeWorld;
let pods: Pod[];

beforeAll(async () => {
  world = await createNodeWorld('a40:1');
  await world.startAgent();
  const options = {
    share: 0.6,
    settings: { fairness: { minRuntimeMs: 200, maxWaitTimeMs: 200 } },
    simulation: { bootSeconds: 0.5, wakeBaseMs: 20, wakeGBPerSecond: 500, sleepMs: 10 },
  };
  pods = [await world.addPod('red', options), await world.addPod('blue', options)];
});
afterAll(() => world?.close());

describe('two models that do not fit together', () => {
  it('both boot, one after the other', async () => {
    for (const pod of pods)
      await until(`${pod.model} to have booted`, async () => (await world.status(pod)).bootReady);
  });

  it(`both answer ${requests} questions turn by turn, no token without its bytes`, async () => {
    for (let n = 0; n < requests; n++) {
      const pod = pods[n % 2]!;
      const answer = await world.chat(pod, `say nonce-${n}${n}`);
      expect(answer).toMatchObject({ status: 200, text: expect.stringContaining(`nonce-${n}${n}`) });
    }
    expect(world.violations()).toEqual([]);
    const tokens = world.tokens();
    expect(tokens.length).toBeGreaterThan(requests);
    expect(tokens.filter(({ awake, bytes }) => !awake || bytes < 2 ** 30)).toEqual([]);
  });

  it('and every preemption is counted by both front doors that took part, as by the agent', async () => {
    const preempted = Number(
      /^gthread_agent_preemptions_total (\d+)$/m.exec(await world.metrics())?.[1] ?? 0,
    );
    expect(preempted).toBeGreaterThanOrEqual(requests - 1);
    const counted = { victim: 0, waiter: 0 };
    for (const { url } of pods) {
      const text = await (await fetch(`${url}/metrics`)).text();
      for (const [, role, count] of text.matchAll(
        /^gthread_sidecar_preemptions_total\{role="(\w+)"\} (\d+)$/gm,
      ))
        counted[role as keyof typeof counted] += Number(count);
    }
    expect(counted).toEqual({ victim: preempted, waiter: preempted });
  });
});
