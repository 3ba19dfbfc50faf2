import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createNodeWorld, type NodeWorld, type Pod, until } from './node-world.ts';

/** Where an agent is killed: at an effect, or so many ms later. */
const points: Record<string, [effect: string, laterMs?: number]> = {
  'a barrier': ['barrier'],
  'a sleep': ['sleep-engine'],
  'a sleep that was answered and not measured': ['sleep-engine', 15],
  'a wake': ['wake-engine'],
  'a wake under way': ['wake-engine', 15],
  'a state told': ['tell'],
};
/** Kills at each point. */
const rounds = Number(process.env.GREENTHREAD_TEST_KILLS ?? 2);
let world: NodeWorld;
let pods: Pod[];

beforeAll(async () => {
  world = await createNodeWorld('a40:1');
  await world.startAgent();
  const options = {
    share: 0.6,
    settings: { fairness: { minRuntimeMs: 200, maxWaitTimeMs: 200 } },
    simulation: { bootSeconds: 0.5, wakeBaseMs: 20, wakeGBPerSecond: 500, sleepMs: 10, residueMiB: 600 },
  };
  pods = [await world.addPod('red', options), await world.addPod('blue', options)];
  for (const pod of pods)
    await until(`${pod.model} to have booted`, async () => (await world.status(pod)).bootReady);
});
afterAll(() => world?.close());

/** Clients that ask one question after another until stopped; what was not answered with 200 and its own nonce. */
function clients() {
  let stopped = false;
  let asked = 0;
  const wrong: string[] = [];
  const ask = async (pod: Pod, name: string): Promise<void> => {
    for (let n = 0; !stopped; n++) {
      const nonce = `nonce-${Buffer.from(name).toString('hex')}${n}`;
      asked += 1;
      const { status, text } = await world
        .chat(pod, nonce, { maxTokens: 12 })
        .catch((error: Error) => ({ status: 0, text: String(error.cause ?? error) }));
      if (status !== 200 || !text.includes(nonce)) wrong.push(`${pod.model} ${status} ${text.slice(0, 200)}`);
      await delay(20);
    }
  };
  const all = pods.flatMap((pod) => [ask(pod, 'a'), ask(pod, 'b')]);
  return {
    stop: async () => {
      stopped = true;
      await Promise.all(all);
      return { asked, wrong };
    },
    asked: () => asked,
  };
}

/** Sum of a GPU's books that are held by models, and what the driver says is used, bytes. */
async function books(): Promise<{ held: number; room: number }> {
  const text = await world.metrics();
  const of = (kind: string) =>
    Number(new RegExp(`^gthread_agent_ledger_bytes\\{[^}]*kind="${kind}"\\} (\\d+)`, 'm').exec(text)?.[1]);
  return { held: of('residue') + of('foreign'), room: of('room') };
}

describe('an agent that is killed', () => {
  it.each(Object.keys(points))(`at %s, ${rounds} times, loses no request`, async (point) => {
    const running = clients();
    for (let n = 0; n < rounds; n++) {
      const [effect, laterMs] = points[point]!;
      await world.killAgentAt(effect, laterMs);
      await delay(100);
      await world.startAgent();
      const before = running.asked();
      await until('requests to go on', () => running.asked() > before + 8);
    }
    const { asked, wrong } = await running.stop();
    expect(wrong).toEqual([]);
    expect(asked).toBeGreaterThan(rounds * 8);
    expect(world.violations()).toEqual([]);
  });

  it('has books that equal what nvidia-smi says, soon after its return', async () => {
    await world.killAgent();
    await world.startAgent();
    await until('books and driver to agree', async () => {
      const { held, room } = await books();
      if (!Number.isFinite(room)) return false;
      // One is awake at its measured bytes; the other one's residue and the driver's own share are what else is used.
      return (
        held > 0 && room > 0 && Math.abs(world.usedBytes() - (world.capacityBytes() - room)) < 300 * 2 ** 20
      );
    });
  });
});
