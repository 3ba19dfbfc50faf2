/** An engine or a sidecar dies: what was sent to it is cut in the right shape, all else is kept and served. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { clearViolations, deleteModels, podsOf, until, violations } from '../harness/cluster.ts';
import { type Answer, ask, lost, send } from './asking.ts';
import { closeShells } from './node-shell.ts';
import {
  atEdge,
  deploy,
  enginePids,
  healGpu,
  ipOf,
  kill9,
  node,
  onT4,
  podPids,
  slowEngines,
  untilBooksAgree,
  untilStatus,
} from './stage.ts';
import { agentMetrics } from './wishes.ts';

beforeAll(async () => {
  await clearViolations();
  await slowEngines(node, 0, { bootSeconds: 1 });
});
afterEach(() => deleteModels('red'));
afterAll(async () => {
  await healGpu(node, 0);
  closeShells();
});

async function grants(): Promise<number> {
  const found = /^gthread_agent_effects_total\{type="grant"\} (\d+)/m.exec(await agentMetrics(node));
  return Number(found?.[1] ?? 0);
}

async function onlyPod(): Promise<{ uid: string; ip: string }> {
  const [pod] = await podsOf('red');
  return { uid: pod!.metadata.uid!, ip: await ipOf('red') };
}

/** Kills the engine of red's pod and nothing else. @returns its pids */
async function killEngine(uid: string): Promise<number[]> {
  const pids = await enginePids(node, uid);
  await kill9(node, pids);
  return pids;
}

/** Another engine runs in the same pod, under another grant. */
async function untilBackAgain(uid: string, before: number[], grantsBefore: number): Promise<void> {
  await until('another engine runs', async () => {
    const now = await enginePids(node, uid);
    return now.length > 0 && now.every((pid) => !before.includes(pid));
  });
  await until('it runs under a new grant', async () => (await grants()) > grantsBefore);
}

const retryAfter = ({ headers }: Answer): number => Number(headers['retry-after']);
const errorOf = ({ text }: Answer) => JSON.parse(text) as { type?: string; error: Record<string, unknown> };

describe('an engine killed -9', () => {
  it('while it serves cuts what it had, says so in the shape of each route, and serves what came after', async () => {
    // The Anthropic route knows no least length.
    await slowEngines(node, 0, { answerTokens: 2_000 });
    await deploy({ red: onT4() });
    const { uid, ip } = await onlyPod();
    const grantsBefore = await grants();
    const url = `http://${ip}:8000`;
    const stream = send({ ...atEdge('red', { tokens: 2_000, stream: true }), url });
    const whole = send(atEdge('red', { tokens: 2_000 }));
    const message = send(atEdge('red', { tokens: 2_000, route: '/v1/messages' }));
    await until('the stream runs', async () => stream.pieces() > 5);
    await untilStatus(ip, 'has all three in its engine', ({ queue }) => queue.inFlight === 3);

    const before = await killEngine(uid);
    await untilStatus(ip, 'knows that its engine is gone', ({ state }) => state !== 'serving');
    const queued = [send(atEdge('red')), send({ ...atEdge('red', { stream: true }), url })];

    const cut = await stream.answer;
    expect(cut.status).toBe(200);
    expect(cut.complete).toBe(false);
    const plain = await whole.answer;
    expect([502, 503]).toContain(plain.status);
    expect(retryAfter(plain)).toBeGreaterThan(0);
    expect(retryAfter(plain)).toBeLessThanOrEqual(60);
    expect(errorOf(plain).error).toMatchObject({
      type: 'server_error',
      code: 'engine_died',
      message: expect.any(String),
    });
    const anthropic = await message.answer;
    expect([502, 503]).toContain(anthropic.status);
    expect(retryAfter(anthropic)).toBeGreaterThan(0);
    expect(errorOf(anthropic)).toMatchObject({ type: 'error', error: { type: 'api_error' } });

    for (const { answer } of queued) expect(lost(await answer)).toBe(null);
    await untilBackAgain(uid, before, grantsBefore);
    expect(lost(await ask(atEdge('red')))).toBe(null);
    await untilBooksAgree(node);
    expect(await violations()).toEqual([]);
  });

  it('while idle comes back under a new grant and serves', async () => {
    await deploy({ red: onT4() });
    const { uid } = await onlyPod();
    const grantsBefore = await grants();
    const before = await killEngine(uid);
    expect(lost(await ask(atEdge('red')))).toBe(null);
    await untilBackAgain(uid, before, grantsBefore);
    await untilBooksAgree(node);
    expect(await violations()).toEqual([]);
  });

  it('while asleep comes back under a new grant and serves', async () => {
    await deploy({ red: onT4({ sleep: { idleTimeout: '500ms' } }) });
    const { uid, ip } = await onlyPod();
    await untilStatus(ip, 'sleeps', ({ state }) => state === 'sleeping');
    const grantsBefore = await grants();
    const before = await killEngine(uid);
    expect(lost(await ask(atEdge('red')))).toBe(null);
    await untilBackAgain(uid, before, grantsBefore);
    await untilStatus(ip, 'sleeps', ({ state }) => state === 'sleeping');
    await untilBooksAgree(node);
    expect(await violations()).toEqual([]);
  });
});

describe('a sidecar killed -9', () => {
  it.each([
    { name: 'awake', idleTimeout: '10m', state: 'serving' },
    { name: 'asleep', idleTimeout: '500ms', state: 'sleeping' },
  ])('beside an engine that is $name finds it as it was, and the next request is served', async (given) => {
    await deploy({ red: onT4({ sleep: { idleTimeout: given.idleTimeout } }) });
    const { uid, ip } = await onlyPod();
    await untilStatus(ip, `is ${given.state}`, ({ state }) => state === given.state);
    const engine = await enginePids(node, uid);
    const before = await podPids(node, uid, '/app/sidecar.js');
    await kill9(node, before);
    await until('another sidecar runs', async () => {
      const now = await podPids(node, uid, '/app/sidecar.js');
      return now.length > 0 && now.every((pid) => !before.includes(pid));
    });
    await untilStatus(
      ip,
      `is ${given.state} again`,
      ({ state, bootReady }) => state === given.state && bootReady,
    );
    expect(lost(await ask({ ...atEdge('red'), url: `http://${ip}:8000` }))).toBe(null);
    expect(await enginePids(node, uid)).toEqual(engine);
    expect(await violations()).toEqual([]);
  });
});
