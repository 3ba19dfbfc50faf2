import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createNodeWorld, type NodeWorld, type Pod, until } from './node-world.ts';

let world: NodeWorld;
let pod: Pod;
let said = '';

beforeAll(async () => {
  world = await createNodeWorld('a40:1');
  await world.startAgent();
  world.agent().child.stderr!.on('data', (chunk) => {
    said += String(chunk);
  });
  pod = await world.addPod('red', {
    share: 0.4,
    settings: { sleep: { idleTimeoutMs: 300, level: 'suspend' as const } },
    simulation: { bootSeconds: 0.3, wakeBaseMs: 20 },
  });
  await until('red to have booted', async () => (await world.status(pod)).bootReady);
});
afterAll(() => world?.close());

describe('sleep.level suspend on a node without a CUDA driver', () => {
  it('sleeps at level 1, says once why, with the remedy, and wakes', async () => {
    for (const nonce of ['nonce-1', 'nonce-2']) {
      await until('red to sleep', async () => (await world.status(pod)).state === 'sleeping');
      await until('its memory to be free', () => world.usedBytes() < 2 * 2 ** 30);
      expect(await world.chat(pod, nonce)).toMatchObject({
        status: 200,
        text: expect.stringContaining(nonce),
      });
    }
    const notices = said.split('\n').filter((line) => line.includes('SuspendNotOffered'));
    expect(notices).toHaveLength(1);
    expect(notices[0]).toMatch(/sleeps as with sleep\.level offload: .*(NoCudaDriver|NoCudaProcess|NotX86)/);
    expect(world.violations()).toEqual([]);
  });
});
