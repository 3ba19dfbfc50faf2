/** Four clients that alternate between two models on one GPU: how often it switches, and how long all take. */
import { describe, expect, it } from 'vitest';
import { ScenarioNode } from './node-with-models.ts';

const callMs = 200;

interface Call {
  model: string;
  client: number;
}

/** Clients take calls from one list in order; each waits for its answer before it takes the next. */
class Clients {
  node: ScenarioNode;
  calls: string[];
  waiting: Call[] = [];
  running: Call[] = [];
  done = 0;
  #next = 0;

  constructor(node: ScenarioNode, calls: string[]) {
    this.node = node;
    this.calls = calls;
  }

  start(clients: number): void {
    for (let client = 0; client < clients; client++) this.#take(client);
    this.#say(...new Set(this.calls));
  }

  #take(client: number): void {
    const model = this.calls[this.#next++];
    if (model !== undefined) this.waiting.push({ model, client });
  }

  /** What each sidecar would do: let pass what may, tell what changed. */
  #say(...models: string[]): void {
    for (const model of models) {
      const count = (list: Call[]): number => list.filter((call) => call.model === model).length;
      this.node.demand(model, count(this.running), count(this.waiting));
    }
  }

  step(ms: number): void {
    this.node.pass(ms);
    for (const call of [...this.waiting]) {
      if (this.node.told(call.model)?.state !== 'SERVING' || this.node.phase(call.model) !== 'serving')
        continue;
      this.waiting = this.waiting.filter((other) => other !== call);
      this.running.push(call);
      this.node.later(callMs, () => this.#finish(call));
      this.#say(call.model);
    }
  }

  #finish(call: Call): void {
    this.running = this.running.filter((other) => other !== call);
    this.done++;
    this.#say(call.model);
    // The next call of this client comes a few milliseconds later, as over HTTP.
    this.node.later(3, () => {
      const before = this.waiting.length;
      this.#take(call.client);
      if (this.waiting.length > before) this.#say(this.waiting.at(-1)!.model);
    });
  }
}

function alternate(clients: number): { switches: number; ms: number } {
  const options = { sleepMs: 300, wakeMs: 300, bootMs: 5_000 };
  const node = new ScenarioNode(1).start().add('b', options).booted('b').add('a', options).booted('a');
  node.pass(20_000).forget();
  const began = node.now;
  const calls = Array.from({ length: 20 }, (_, at) => (at % 2 === 0 ? 'a' : 'b'));
  const load = new Clients(node, calls);
  load.start(clients);
  while (load.done < 20 && node.now - began < 120_000) load.step(1);
  expect(load.done).toBe(20);
  return { switches: node.sent('wake-engine').length, ms: node.now - began };
}

describe('two models that do not fit together', () => {
  it('switch three times for ABAB by 4 clients, and lose no more than the switches', () => {
    const { switches, ms } = alternate(4);
    expect(switches).toBe(3);
    // Nine rounds of calls and three switches of 600 ms; a little for measuring, and for clients that come back.
    expect(ms).toBeLessThan(9 * callMs + 3 * 600 + 400);
  });

  it('switch for every call when there is but one client', () => {
    expect(alternate(1).switches).toBe(19);
  });

  it('take turns under steady load: switching eats at most a fifth', () => {
    const fairness = { minRuntimeMs: 0, maxWaitTimeMs: 0 };
    const options = { fairness, sleep: { drainTimeoutMs: 0 }, sleepMs: 800, wakeMs: 1_200, bootMs: 5_000 };
    const node = new ScenarioNode(1).start().add('a', options).booted('a').add('b', options).booted('b');
    // One switch each way, so that costs are measured.
    node.demand('a', 0, 1);
    node.pass(5_000);
    node.demand('a', 0, 0);
    node.demand('b', 0, 1);
    node.pass(5_000);
    node.demand('b', 1, 0);
    node.demand('a', 0, 1);
    node.forget();
    let servingMs = 0;
    const began = node.now;
    while (node.now - began < 300_000) {
      node.pass(10);
      const served = ['a', 'b'].filter((name) => node.phase(name) === 'serving');
      servingMs += served.length > 0 ? 10 : 0;
      for (const name of served) if (node.demands.get(name)!.inFlight === 0) node.demand(name, 1, 0);
    }
    expect(node.sent('wake-engine').length).toBeGreaterThan(10);
    expect(servingMs / 300_000).toBeGreaterThanOrEqual(0.8);
  });
});
