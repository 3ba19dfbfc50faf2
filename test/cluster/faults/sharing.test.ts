/** Two Models that cannot be awake together on one GPU: every request is served, nothing is cut, nothing over-committed. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { clearViolations, deleteModels, podsOf, until, violations } from '../harness/cluster.ts';
import { ask, contentOf, lost, newNonce, send } from './asking.ts';
import { closeShells } from './node-shell.ts';
import {
  atEdge,
  deploy,
  gpuOf,
  halfAndMore,
  healGpu,
  ipOf,
  node,
  onT4,
  slowEngines,
  tokenCount,
  tokenFaults,
  untilBooksAgree,
  untilStatus,
} from './stage.ts';
import { agentMetrics, quantiles, wishes } from './wishes.ts';

const requests = Number(process.env.GREENTHREAD_TEST_REQUESTS ?? 40);
const wakes = Number(process.env.GREENTHREAD_TEST_WAKES ?? requests);
const gibibyte = 2 ** 30;
const bytesMin = Number.parseInt(halfAndMore, 10) * gibibyte * 0.9;
const msPerRequest = 6_000;

beforeAll(async () => {
  await clearViolations();
  await slowEngines(node, 0, { bootSeconds: 1, wakeBaseMs: 50, sleepMs: 20 });
});
afterEach(() => deleteModels('red', 'blue'));
afterAll(async () => {
  await healGpu(node, 0);
  closeShells();
});

describe('two models that do not fit together', () => {
  it(
    `answer ${requests} alternating requests, each with its nonce`,
    async () => {
      await deploy({ red: onT4(), blue: onT4() });
      const gpu = await gpuOf(node);
      const tokensBefore = await tokenCount(node, gpu.spec.uuid);
      const began = Date.now();
      const faults: string[] = [];
      for (let n = 0; n < requests; n++) {
        const answer = await ask(atEdge(n % 2 === 0 ? 'red' : 'blue', { tokens: 4 }));
        const fault = lost(answer);
        if (fault) faults.push(`request ${n}: ${fault}`);
      }
      console.log(`${requests} alternating requests: ${Date.now() - began} ms`);
      expect(faults).toEqual([]);
      // The log would be empty too if nothing were written: each answer has its four tokens.
      expect(await tokenCount(node, gpu.spec.uuid)).toBeGreaterThanOrEqual(tokensBefore + requests * 4);
      expect(await tokenFaults(node, gpu.spec.uuid, bytesMin)).toEqual([]);
      expect(await violations()).toEqual([]);
      await untilBooksAgree(node);
    },
    120_000 + requests * msPerRequest,
  );

  it('freeze what streams when a turn is over, and end it whole and in order', async () => {
    const fairness = { minRuntime: '200ms', maxWaitTime: '100ms' };
    await deploy({
      red: onT4({ fairness, sleep: { drainTimeout: '200ms' } }),
      blue: onT4({ fairness, sleep: { drainTimeout: '200ms' } }),
    });
    // Long enough for several turns of each.
    const tokens = 400;
    const streams = ['red', 'blue', 'red', 'blue'].map((model) => {
      const question = atEdge(model, { tokens, stream: true, nonce: newNonce() });
      return { question, asked: send(question) };
    });
    const answers = await Promise.all(streams.map(({ asked }) => asked.answer));
    expect(answers.map(lost)).toEqual([null, null, null, null]);
    expect(streams.map(({ asked }) => asked.pieces())).toEqual([tokens, tokens, tokens, tokens]);
    // What the same question says when nobody interrupts it.
    await slowEngines(node, 0, { tokensPerSecond: 1_000 });
    const wholes = await Promise.all(
      streams.map(({ question }) => ask({ ...question, url: atEdge('red').url, stream: false })),
    );
    expect(wholes.map(lost)).toEqual([null, null, null, null]);
    expect(answers.map(({ text }) => text)).toEqual(wholes.map(contentOf));
    const gpu = await gpuOf(node);
    expect(await tokenFaults(node, gpu.spec.uuid, bytesMin)).toEqual([]);
    expect(await violations()).toEqual([]);
    expect(await preemptions()).toBeGreaterThan(1);
  });
});

/** How often the node's agent let one give way for another since its start. */
async function preemptions(): Promise<number> {
  const text = await agentMetrics(node);
  return Number(/^gthread_agent_preemptions_total (\d+)/m.exec(text)?.[1] ?? 0);
}

describe('a model that sleeps and wakes alone', () => {
  it(
    `wakes ${wakes} times, and its wish reaches the engine soon`,
    async () => {
      await slowEngines(node, 0, { bootSeconds: 1, wakeBaseMs: 5, sleepMs: 5 });
      await deploy({ red: { ...onT4(), sleep: { idleTimeout: '50ms' } } });
      const ip = await ipOf('red');
      const before = await wishes(node);
      for (let n = 0; n < wakes; n++) {
        await untilStatus(ip, 'sleeps', ({ state }) => state === 'sleeping');
        expect(lost(await ask({ ...atEdge('red', { tokens: 2 }), url: `http://${ip}:8000` }))).toBe(null);
      }
      const counted = await until('the wakes are counted', async () => {
        const now = await wishes(node);
        return now.count - before.count >= wakes && now;
      });
      console.log(`wish to wake, ${counted.count - before.count} wakes: ${quantiles(before, counted)}`);
      expect(await podsOf('red')).toHaveLength(1);
      expect(await violations()).toEqual([]);
    },
    120_000 + wakes * 3_000,
  );
});
