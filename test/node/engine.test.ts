import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createNodeWorld, type NodeWorld, type Pod, until } from './node-world.ts';

let world: NodeWorld;
let pod: Pod;
let blue: Pod;

beforeAll(async () => {
  world = await createNodeWorld('a40:1');
  await world.startAgent();
  pod = await world.addPod('red', { share: 0.6, simulation: { bootSeconds: 0.3, wakeBaseMs: 20 } });
  await until('red to have booted', async () => (await world.status(pod)).bootReady);
});
afterAll(() => world?.close());

const serves = () => until('red to serve', async () => (await world.status(pod)).state === 'serving');
const enginePid = (): number =>
  Number([...pod.launcher.output().matchAll(/"engine started", "pid": (\d+)/g)].at(-1)![1]);

describe('an engine that dies', () => {
  it('answers what it had with an error that may be tried again, boots under a new grant and serves', async () => {
    await serves();
    const cut = world.chat(pod, 'nonce-1', { maxTokens: 500 });
    await until('tokens', () => world.tokens().length > 10);
    const dead = enginePid();
    process.kill(dead, 'SIGKILL');
    const answer = await cut.catch((error: Error) => error);
    if (!(answer instanceof Error)) expect([200, 502, 503]).toContain(answer.status);
    const next = await world.chat(pod, 'nonce-2');
    expect(next).toMatchObject({ status: 200, text: expect.stringContaining('nonce-2') });
    expect(enginePid()).not.toBe(dead);
    expect(world.violations()).toEqual([]);
  });

  it('boots although the agent is killed as it grants', async () => {
    await serves();
    process.kill(enginePid(), 'SIGKILL');
    await world.killAgentAt('grant');
    await world.startAgent();
    expect(await world.chat(pod, 'nonce-3')).toMatchObject({ status: 200 });
    expect(world.violations()).toEqual([]);
  });
});

describe('an engine that misbehaves', () => {
  it('whose sleep keeps its memory is restarted, and serves again', async () => {
    await serves();
    const before = enginePid();
    world.set('engine.sleepKeepsMemory=true');
    blue = await world.addPod('blue', { share: 0.6, simulation: { bootSeconds: 0.3 } });
    await until(
      'red to be restarted',
      () => enginePid() !== before || /"restart/.test(pod.launcher.output()),
    );
    world.set('engine.sleepKeepsMemory=false');
    expect(await world.chat(blue, 'nonce-4')).toMatchObject({ status: 200 });
    expect(await world.chat(pod, 'nonce-5')).toMatchObject({ status: 200 });
    expect(world.violations()).toEqual([]);
  });

  it('whose wake fails is tried again', async () => {
    world.set('engine.wakeFails=true');
    const waiting = world.chat(blue, 'nonce-6');
    await until('a wake that failed', async () =>
      /wake_duration_seconds_count\{outcome="failed"\} [1-9]/.test(await world.metrics()),
    );
    world.set('engine.wakeFails=false');
    expect((await waiting).status).toBe(200);
  });
});

describe('a pod that ends', () => {
  it('drains before its engine ends', async () => {
    const last = world.chat(pod, 'nonce-8', { maxTokens: 50 });
    await until('it to run', async () => (await world.status(pod)).state === 'serving');
    pod.launcher.child.kill('SIGTERM');
    expect((await last).status).toBe(200);
    expect(await pod.launcher.ended).toBe(0);
  });
});
