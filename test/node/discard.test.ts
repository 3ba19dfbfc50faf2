import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createNodeWorld, type NodeWorld, type Pod, until } from './node-world.ts';

let world: NodeWorld;
let pod: Pod;

beforeAll(async () => {
  world = await createNodeWorld('a40:1');
  await world.startAgent();
  const sleep = { idleTimeoutMs: 300, level: 'discard' as const };
  pod = await world.addPod('red', {
    share: 0.4,
    settings: { sleep },
    simulation: { bootSeconds: 0.3, wakeBaseMs: 20 },
  });
  await until('red to have booted', async () => (await world.status(pod)).bootReady);
});
afterAll(() => world?.close());

describe('a model that drops its weights', () => {
  it('serves after each wake, also when another agent wakes it than the one that put it to sleep', async () => {
    for (const nonce of ['nonce-1', 'nonce-2']) {
      await until('red to sleep', async () => (await world.status(pod)).state === 'sleeping');
      await until('its memory to be free', () => world.usedBytes() < 2 * 2 ** 30);
      await world.killAgent();
      await world.startAgent();
      expect(await world.chat(pod, nonce)).toMatchObject({
        status: 200,
        text: expect.stringContaining(nonce),
      });
    }
    expect(world.violations()).toEqual([]);
  });
});
