/** An engine that cannot give its memory back: what runs in it ends whole, and who waits for its room gets it all the same. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createNodeWorld, type NodeWorld, type Pod, until } from './node-world.ts';

let world: NodeWorld;
let red: Pod;
let blue: Pod;

beforeAll(async () => {
  world = await createNodeWorld('a40:1');
  await world.startAgent();
  const options = {
    share: 0.6,
    settings: { fairness: { minRuntimeMs: 100, maxWaitTimeMs: 100 }, sleep: { drainTimeoutMs: 100 } },
    simulation: { bootSeconds: 0.3, wakeBaseMs: 20, wakeGBPerSecond: 500, answerTokens: 2_000 },
  };
  red = await world.addPod('red', options);
  blue = await world.addPod('blue', options);
  for (const pod of [red, blue])
    await until(`${pod.model} to have booted`, async () => (await world.status(pod)).bootReady);
});
afterAll(() => world?.close());

const enginePid = (): number =>
  Number([...red.launcher.output().matchAll(/"engine started", "pid": (\d+)/g)].at(-1)![1]);
const answered = ({ text }: { text: string }): number => JSON.parse(text).usage?.completion_tokens;

describe('an engine that refuses to sleep', () => {
  it('goes on with what was frozen, also when its agent dies before it is woken, and ends for who waits when nothing runs', async () => {
    await world.chat(red, 'nonce-1');
    world.set('engine.sleepFails=true', 'engine.tokensPerSecond=20');
    const pid = enginePid();
    let done = false;
    const before = world.tokens().length;
    const long = world.chat(red, 'nonce-2', { maxTokens: 1_500 }).finally(() => {
      done = true;
    });
    await until('red to run', () => world.tokens().length > before + 4);
    const waiting = world.chat(blue, 'nonce-3');
    await world.killAgentAt('sleep-engine', 15);
    await world.startAgent();
    await until('two refused sleeps', async () =>
      /sleep_duration_seconds_count\{outcome="failed"\} 2/.test(await world.metrics()),
    );
    expect([done, enginePid()]).toEqual([false, pid]);
    world.set('engine.tokensPerSecond=2000');
    expect(answered(await long)).toBe(1_500);
    expect(await waiting).toMatchObject({ status: 200, text: expect.stringContaining('nonce-3') });
    world.set('engine.sleepFails=false');
    expect(await world.chat(red, 'nonce-4')).toMatchObject({ status: 200 });
    expect(enginePid()).not.toBe(pid);
    expect(world.violations()).toEqual([]);
  });
});
