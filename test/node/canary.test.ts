import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createNodeWorld, type NodeWorld, type Pod, until } from './node-world.ts';

const simulation = { bootSeconds: 0.3, wakeBaseMs: 20, sleepMs: 10, tokensPerSecond: 200 };
const settings = { fairness: { minRuntimeMs: 200, maxWaitTimeMs: 200 }, sleep: { drainTimeoutMs: 0 } };
/** What the simulated engine says after a wake that broke its weights. */
const nonsense = /0 1 0|1 0 1/;
const tokens = 800;
let world: NodeWorld;
let red: Pod;
let blue: Pod;

beforeAll(async () => {
  world = await createNodeWorld('a40:1', { canary: true });
  await world.startAgent();
  red = await world.addPod('red', { share: 0.6, settings, simulation });
  blue = await world.addPod('blue', { share: 0.6, settings, simulation });
  for (const pod of [red, blue])
    await until(`${pod.model} to have booted`, async () => (await world.status(pod)).bootReady);
});
afterAll(() => world?.close());

/** Read by the engine at its next wake. */
const wakesBroken = (broken: boolean): void =>
  writeFileSync(
    join(world.modelsDir, 'red', 'sim.json'),
    JSON.stringify({ ...simulation, wakeGarbles: broken }),
  );
const alarms = async (): Promise<number> =>
  Number(/^gthread_agent_canary_alarms_total (\d+)$/m.exec(await world.metrics())?.[1]);
const answer = (pod: Pod, nonce: string) => world.chat(pod, `say ${nonce}`);
const right = (nonce: string) => ({ status: 200, text: expect.stringContaining(nonce) });

/** A chat of red's, read as it comes. */
async function stream(nonce: string) {
  const response = await fetch(`${red.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model: 'org/red',
      stream: true,
      max_tokens: tokens,
      ignore_eos: true,
      messages: [{ role: 'user', content: `say ${nonce}` }],
    }),
  });
  const said = { text: '', end: null as 'whole' | 'cut' | null, response };
  void (async () => {
    const decoder = new TextDecoder();
    let raw = '';
    try {
      for await (const chunk of response.body!) {
        raw += decoder.decode(chunk, { stream: true });
        said.text = [...raw.matchAll(/"content":"([^"]*)"/g)].map(([, content]) => content).join('');
      }
      said.end = raw.includes('[DONE]') ? 'whole' : 'cut';
    } catch {
      said.end = 'cut';
    }
  })();
  return said;
}

/** The same in words: a stream of red's that blue's wish has frozen, and that red's next wake thaws. */
async function thawed(nonce: string) {
  const said = await stream(nonce);
  await until('some tokens', () => said.text.length > 40);
  expect(await answer(blue, `${nonce}0`)).toMatchObject(right(`${nonce}0`));
  expect(said.end).toBeNull();
  await until('an end', () => said.end);
  return said;
}

describe('a wake that is followed by a canary', () => {
  it('of sound weights lets a thawed stream go on, whole', async () => {
    expect(await answer(red, 'nonce-1')).toMatchObject(right('nonce-1'));
    const undisturbed = await stream('nonce-2');
    await until('its end', () => undisturbed.end);
    const said = await thawed('nonce-2');
    expect([said.end, said.text]).toEqual(['whole', undisturbed.text]);
    expect(await alarms()).toBe(0);
  });

  it('of broken weights is not seen by those who wait: the engine boots again and answers them', async () => {
    expect(await answer(blue, 'nonce-3')).toMatchObject(right('nonce-3'));
    wakesBroken(true);
    const before = await alarms();
    const [first, second] = await Promise.all([answer(red, 'nonce-4'), answer(red, 'nonce-5')]);
    expect([first, second]).toMatchObject([right('nonce-4'), right('nonce-5')]);
    expect(await alarms()).toBe(before + 1);
    expect(red.launcher.output()).toContain('TalksNonsense');
  });

  it('of broken weights cuts a stream that it thawed, and nothing of its nonsense has come', async () => {
    wakesBroken(true);
    const before = await alarms();
    const said = await thawed('nonce-6');
    expect([said.end, nonsense.test(said.text)]).toEqual(['cut', false]);
    wakesBroken(false);
    expect(await answer(red, 'nonce-7')).toMatchObject(right('nonce-7'));
    expect(await alarms()).toBe(before + 1);
  });

  it('is judged by an agent that knows the engine from its sidecar alone', async () => {
    expect(await answer(blue, 'nonce-8')).toMatchObject(right('nonce-8'));
    await world.killAgent();
    await world.startAgent();
    wakesBroken(true);
    expect(await answer(red, 'nonce-9')).toMatchObject(right('nonce-9'));
    expect(await alarms()).toBe(1);
    wakesBroken(false);
  });

  it('is asked again by the next agent when one dies while it asks', async () => {
    expect(await answer(blue, 'nonce-a')).toMatchObject(right('nonce-a'));
    wakesBroken(true);
    const killed = world.killAgentAt('probe-engine', 30);
    const waiting = answer(red, 'nonce-b');
    await killed;
    wakesBroken(false);
    await world.startAgent();
    expect(await waiting).toMatchObject(right('nonce-b'));
    expect(await alarms()).toBe(1);
    expect(world.violations()).toEqual([]);
  });
});
