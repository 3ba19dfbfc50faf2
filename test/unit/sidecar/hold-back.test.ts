/** What an engine answers after a wake is held back until the agent says that it serves. */
import type { ServerResponse } from 'node:http';
import { afterEach, describe, expect, it } from 'vitest';
import { type Held, HoldBack } from '../../../sidecar/act/hold-back.ts';
import { asState } from './fake-agent.ts';
import { chat, openPod, type Pod, until } from './pod.ts';

const pods: Pod[] = [];
afterEach(async () => {
  await Promise.all(pods.splice(0).map((pod) => pod.close()));
});

/** A pod that serves one stream; the engine's side of it. */
async function streaming(holdsBack = true, headers: Record<string, string> = {}) {
  const pod = await openPod({ state: { state: 'SERVING' } });
  pods.push(pod);
  pod.agent.say({ welcome: { protocol: 1, release: 'test', holdsBack } });
  const engineSide: ServerResponse[] = [];
  pod.engine.handle = (_, res) => void engineSide.push(res);
  const answer = pod.post('/v1/chat/completions', chat({ stream: true }), headers);
  await until('the engine has it', () => engineSide.length === 1);
  const engine = engineSide[0]!;
  const told = async (state: 'PENDING' | 'WAKING' | 'SERVING', reason = '') => {
    pod.agent.tell(state, { reason });
    await until(state, () => pod.door.loop.hello().epoch === pod.agent.state.epoch);
  };
  const frozen = async () => {
    const epoch = pod.agent.raise();
    await until('the barrier', () => pod.door.loop.hello().epoch === epoch);
    await told('PENDING');
    await told('WAKING');
  };
  return { pod, engine, engineSide, answer, told, frozen };
}

/** Reads in the background. */
function reading(body: ReadableStream<Uint8Array>) {
  const got = { text: '', end: null as 'whole' | 'cut' | null };
  void (async () => {
    const decoder = new TextDecoder();
    try {
      for await (const chunk of body) got.text += decoder.decode(chunk);
      got.end = 'whole';
    } catch {
      got.end = 'cut';
    }
  })();
  return got;
}

/** Long enough for bytes to come through if nothing holds them. */
const aMoment = () => new Promise((resolve) => setTimeout(resolve, 60));
const begin = (res: ServerResponse, text: string): void => {
  res.writeHead(200, { 'content-type': 'text/event-stream' });
  res.write(text);
};

describe('a stream that a wake thaws', () => {
  it('waits for SERVING, then goes on whole and in order', async () => {
    const { engine, answer, told, frozen } = await streaming();
    begin(engine, 'data: 1\n\n');
    const got = reading((await answer).body!);
    await until('the first', () => got.text !== '');
    await frozen();
    for (const n of [2, 3, 4]) engine.write(`data: ${n}\n\n`);
    engine.end('data: [DONE]\n\n');
    await aMoment();
    expect(got).toEqual({ text: 'data: 1\n\n', end: null });
    await told('SERVING');
    await until('its end', () => got.end !== null);
    expect(got).toEqual({
      text: 'data: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\ndata: [DONE]\n\n',
      end: 'whole',
    });
  });

  it('that has not begun waits with its headers', async () => {
    const { engine, answer, told, frozen } = await streaming();
    await frozen();
    let began = false;
    void answer.then(() => {
      began = true;
    });
    begin(engine, 'data: 1\n\n');
    engine.end();
    await aMoment();
    expect(began).toBe(false);
    await told('SERVING');
    expect(await (await answer).text()).toBe('data: 1\n\n');
  });

  it('is held in the engine’s connection where it is long: none of it is lost, little of it is kept here', async () => {
    const { engine, answer, told, frozen } = await streaming();
    const bytes = 8 * 1024 * 1024;
    await frozen();
    engine.writeHead(200, { 'content-type': 'text/event-stream' });
    let drained = false;
    engine.write('x'.repeat(bytes), () => {
      drained = true;
    });
    engine.end();
    await aMoment();
    expect(drained).toBe(false);
    await told('SERVING');
    expect((await (await answer).text()).length).toBe(bytes);
  });

  it('is not held where the agent asks for none of it', async () => {
    const { engine, answer, frozen } = await streaming(false);
    await frozen();
    begin(engine, 'data: 1\n\n');
    const got = reading((await answer).body!);
    await until('the first', () => got.text === 'data: 1\n\n');
  });

  it('that runs behind a barrier is not held, until the agent is gone', async () => {
    const { pod, engine, answer, told } = await streaming();
    begin(engine, 'data: 1\n\n');
    const got = reading((await answer).body!);
    const epoch = pod.agent.raise();
    await until('the barrier', () => pod.door.loop.hello().epoch === epoch);
    engine.write('data: 2\n\n');
    await until('the second', () => got.text.endsWith('data: 2\n\n'));
    pod.agent.close();
    await until('the loss', async () =>
      (await (await fetch(`${pod.url}/status`)).text()).includes('"agent":"gone"'),
    );
    engine.write('data: 3\n\n');
    await aMoment();
    expect(got.text).not.toContain('3');
    await pod.agent.listen();
    await until('the next agent', () => pod.agent.connected);
    await told('SERVING');
    await until('the third', () => got.text.endsWith('data: 3\n\n'));
  });
});

describe('an engine that is ended after its wake', () => {
  it.each([
    ['that goes on', false],
    ['that is over already', true],
  ])('takes with it what it said in a stream %s', async (_, over) => {
    const { engine, answer, told, frozen } = await streaming();
    begin(engine, 'data: 1\n\n');
    const got = reading((await answer).body!);
    await until('the first', () => got.text !== '');
    await frozen();
    engine.write('data: nonsense\n\n');
    if (over) engine.end();
    await aMoment();
    await told('PENDING', 'Restarts');
    await until('its end', () => got.end !== null);
    await told('SERVING');
    expect(got).toEqual({ text: 'data: 1\n\n', end: 'cut' });
  });

  it('takes with it what comes only then', async () => {
    const { engine, answer, told, frozen } = await streaming();
    begin(engine, 'data: 1\n\n');
    const got = reading((await answer).body!);
    await until('the first', () => got.text !== '');
    await frozen();
    await told('PENDING', 'Restarts');
    engine.end('data: nonsense\n\n');
    await until('its end', () => got.end !== null);
    expect(got).toEqual({ text: 'data: 1\n\n', end: 'cut' });
  });

  it('leaves a client of which nothing had begun an error that may be tried again', async () => {
    const { engine, answer, told, frozen } = await streaming();
    await frozen();
    begin(engine, 'data: nonsense\n\n');
    engine.end();
    await aMoment();
    await told('PENDING', 'Restarts');
    const { status, headers } = await answer;
    expect([status, headers.has('retry-after')]).toEqual([502, true]);
  });

  it('has its request sent once more where the client allowed it', async () => {
    const { pod, engine, engineSide, answer, told, frozen } = await streaming(true, {
      'x-greenthread-retry': '1',
    });
    await frozen();
    begin(engine, 'data: nonsense\n\n');
    engine.end();
    await aMoment();
    await told('PENDING', 'Restarts');
    await told('SERVING');
    await until('the second try', () => engineSide.length === 2);
    begin(engineSide[1]!, 'data: sense\n\n');
    engineSide[1]!.end();
    expect(await (await answer).text()).toBe('data: sense\n\n');
    expect(pod.engine.seen).toHaveLength(2);
  });
});

describe('a client that leaves while its answer is held back', () => {
  it('ends it in the engine', async () => {
    const { pod, engine, told, frozen } = await streaming();
    const raw = pod.raw();
    const body = JSON.stringify(chat({ stream: true }));
    raw.socket.write(
      `POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    );
    await until('both', () => pod.engine.seen.length === 2);
    await frozen();
    begin(engine, 'data: 1\n\n');
    await aMoment();
    raw.socket.destroy();
    await until('it is cancelled', () => pod.engine.seen[1]!.aborted);
    await told('SERVING');
  });
});

describe('the hold', () => {
  it('is on from the first state after a sleep to the next SERVING, where the agent asks', () => {
    const hold = new HoldBack();
    const on = (state: Parameters<typeof asState>[0]) => {
      hold.told(asState(state));
      return hold.on;
    };
    expect([on({ state: 'PENDING' }), on({ state: 'WAKING' })]).toEqual([false, false]);
    hold.ask(true, asState({ state: 'SERVING' }));
    expect(hold.on).toBe(false);
    const states = [
      'DEACTIVATING',
      'SLEEPING',
      'PENDING',
      'WAKING',
      'DEACTIVATING',
      'FAILED',
      'SERVING',
    ] as const;
    expect(states.map((state) => on({ state }))).toEqual([false, true, true, true, true, true, false]);
    hold.ask(true, asState({ state: 'SLEEPING' }));
    expect(hold.on).toBe(true);
    // An agent that no longer asks: what is held waits for its word all the same.
    hold.ask(false, asState({ state: 'SLEEPING' }));
    expect(hold.on).toBe(true);
    expect([on({ state: 'SERVING' }), on({ state: 'WAKING' })]).toEqual([false, false]);
  });

  it('drops once, and goes on dropping until the next engine serves', () => {
    const hold = new HoldBack();
    hold.ask(true, asState({ state: 'WAKING' }));
    const acts: string[] = [];
    const held = (name: string): Held => ({
      letGo: () => void acts.push(`${name} let go`),
      drop: () => void acts.push(`${name} dropped`),
    });
    hold.keep(held('a'));
    const gone = held('b');
    hold.keep(gone);
    hold.forget(gone);
    hold.told(asState({ state: 'PENDING', reason: 'Restarts' }));
    hold.told(asState({ state: 'WAKING', reason: 'Boots' }));
    hold.keep(held('c'));
    hold.told(asState({ state: 'SERVING' }));
    hold.told(asState({ state: 'WAKING' }));
    hold.keep(held('d'));
    hold.told(asState({ state: 'SERVING' }));
    expect(acts).toEqual(['a dropped', 'c dropped', 'd let go']);
  });
});
