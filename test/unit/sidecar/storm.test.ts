/** Everything at once: clients that come and leave, an agent that changes its mind and restarts, an engine that dies. */
import { afterEach, describe, expect, it } from 'vitest';
import { chat, openPod, type Pod, until } from './pod.ts';

const clientCount = 100;
let pod: Pod | null = null;
afterEach(async () => {
  await pod?.close();
  pod = null;
});

/** Deterministic chance (mulberry32): a seed names a storm. */
function chanceOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** An engine that answers in pieces, each with the request's nonce. */
function answerInPieces(one: Pod, chance: () => number): void {
  one.engine.handle = async (seen, res) => {
    const nonce = seen.url.split('n=')[1];
    res.writeHead(200, { 'content-type': 'text/event-stream' });
    for (let piece = 0; piece < 3; piece++) {
      res.write(`${nonce}:${piece};`);
      await pause(chance() * 4);
    }
    res.end();
  };
}

/** One client. @returns how it went: `whole`, `left`, `cut`, or the status of a refusal */
async function client(one: Pod, nonce: number, leaves: boolean): Promise<string> {
  const abort = new AbortController();
  try {
    const answering = fetch(`${one.url}/v1/completions?n=${nonce}`, {
      method: 'POST',
      body: JSON.stringify(chat()),
      signal: abort.signal,
    });
    if (leaves) setTimeout(() => abort.abort(), 5);
    const answer = await answering;
    const text = await answer.text();
    if (answer.status !== 200) return String(answer.status);
    return text === `${nonce}:0;${nonce}:1;${nonce}:2;` ? 'whole' : `wrong ${text}`;
  } catch {
    return leaves ? 'left' : 'cut';
  }
}

/** Plays an agent until `stop`: barriers, sleeps, wakes, its own restarts. */
async function agentStorm(one: Pod, chance: () => number, running: () => boolean): Promise<void> {
  while (running()) {
    const roll = chance();
    if (roll < 0.45) one.agent.tell('SERVING');
    else if (roll < 0.65) one.agent.raise();
    else if (roll < 0.75) one.agent.tell('SLEEPING');
    else if (roll < 0.85) one.agent.tell('WAKING');
    else if (roll < 0.92) one.agent.tell('PENDING');
    else {
      one.agent.close();
      await pause(chance() * 20);
      await one.agent.listen();
    }
    await pause(chance() * 8);
  }
}

async function engineStorm(one: Pod, chance: () => number, running: () => boolean): Promise<void> {
  while (running()) {
    await pause(40 + chance() * 40);
    one.engine.die();
    await pause(chance() * 30);
    await one.engine.listen();
  }
}

async function play(seed: number, engineDies: boolean): Promise<string[]> {
  const chance = chanceOf(seed);
  const one = await openPod({ state: { state: 'SERVING' } });
  pod = one;
  answerInPieces(one, chance);
  let running = true;
  const storms = [agentStorm(one, chance, () => running)];
  if (engineDies) storms.push(engineStorm(one, chance, () => running));
  const clients: Promise<string>[] = [];
  for (let nonce = 0; nonce < clientCount; nonce++) {
    clients.push(client(one, nonce, chance() < 0.2));
    await pause(chance() * 4);
  }
  running = false;
  await Promise.all(storms);
  await until('the agent hears again', () => one.agent.connected);
  one.agent.tell('SERVING');
  const ends = await Promise.all(clients);
  await until('nothing is left', () => {
    const { demand } = one.door.loop.hello();
    return demand.inFlight === 0 && demand.queued === 0;
  });
  expect(one.door.loop.hello().demand.requestsTotal).toBeLessThanOrEqual(clientCount);
  return ends;
}

describe('a storm', () => {
  it.each([1, 2])('of seed %s loses no request of a client that stays', async (seed) => {
    const ends = await play(seed, false);
    expect(new Set(ends)).toEqual(new Set(['whole', 'left']));
  });

  it.each([3])('of seed %s in which the engine dies costs only what it had been sent', async (seed) => {
    const ends = await play(seed, true);
    for (const end of ends) expect(['whole', 'left', 'cut', '502']).toContain(end);
    expect(ends.filter((end) => end === 'whole').length).toBeGreaterThan(clientCount / 8);
  });
});
