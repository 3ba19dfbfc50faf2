import { describe, expect, it } from 'vitest';
import { PeerNode, type Policy } from '../../../../hack/benchmarks/policy/node.ts';
import { fcfs, lru, reference } from '../../../../hack/benchmarks/policy/peers.ts';
import { GB, modelOf, type Outcome, scenarioOf } from '../../../../hack/benchmarks/policy/scenario.ts';

type Ask = [model: 'a' | 'b' | 'c', atS: number, workS: number];

/** An 80 GB GPU; sleep 0.1 s; of 60 GB (wake 3.3 s) one is awake, of 30 GB (1.8 s) two. */
function run(policy: Policy, gigabytes: number, asks: Ask[]): Outcome {
  const models = ['a', 'b', 'c'].map((name) => modelOf(name, gigabytes * GB));
  const arrivals = asks.map(([model, atS, workS]) => ({
    atMs: atS * 1000,
    model: 'abc'.indexOf(model),
    workMs: workS * 1000,
  }));
  return new PeerNode(scenarioOf('case', models, arrivals), policy).run(1e6);
}

const waitsS = ({ waitsMs }: Outcome): number[] => [...waitsMs].map((ms) => Math.round(ms) / 1000);
const never = 1e9;

describe('LRU', () => {
  it('wakes at once where there is room, and serves the awake without a wait', () => {
    const outcome = run(lru({ residenceMs: 0, patienceMs: 0 }), 30, [
      ['a', 0, 1],
      ['b', 1, 1],
      ['a', 5, 1],
    ]);
    expect(waitsS(outcome)).toEqual([1.8, 1.8, 0]);
    expect(outcome).toMatchObject({ wakes: 2, sleeps: 0, switchMs: 3_600, endMs: 6_000 });
    // The two wakes overlap from 1 to 1.8 s.
    expect(outcome.lostMs).toBeCloseTo(2_800);
  });

  it('sends away the one used longest ago', () => {
    const asks: Ask[] = [
      ['a', 0, 1],
      ['b', 5, 1],
      ['a', 10, 1],
      ['c', 15, 1],
      ['a', 20, 1],
      ['b', 25, 1],
    ];
    const outcome = run(lru({ residenceMs: 0, patienceMs: 0 }), 30, asks);
    expect(waitsS(outcome)).toEqual([1.8, 1.8, 0, 1.9, 0, 1.9]);
  });

  it('drains a busy one: what comes meanwhile waits for its next wake', () => {
    const outcome = run(lru({ residenceMs: 0, patienceMs: 0 }), 60, [
      ['a', 0, 10],
      ['b', 5, 1],
      ['a', 6, 1],
    ]);
    // a ends at 13.3, b serves from 16.7 to 17.7, a again from 21.1.
    expect(waitsS(outcome)).toEqual([3.3, 11.7, 15.1]);
    expect(outcome.longestWaitMs).toBeCloseTo(15_100);
  });

  it('leaves a busy one alone before its patience ends', () => {
    const outcome = run(lru({ residenceMs: 0, patienceMs: never }), 60, [
      ['a', 0, 10],
      ['b', 5, 1],
      ['a', 6, 1],
    ]);
    expect(waitsS(outcome)).toEqual([3.3, 11.7, 0]);
  });

  it('keeps one for its residence', () => {
    const outcome = run(lru({ residenceMs: 20_000, patienceMs: 0 }), 60, [
      ['a', 0, 1],
      ['b', 5, 1],
    ]);
    expect(waitsS(outcome)).toEqual([3.3, 21.7]);
  });
});

describe('first come first served', () => {
  it('sends away the one longest awake, used or not', () => {
    const asks: Ask[] = [
      ['a', 0, 1],
      ['b', 5, 1],
      ['a', 10, 1],
      ['c', 15, 1],
      ['b', 20, 1],
      ['a', 25, 1],
    ];
    expect(waitsS(run(fcfs({ residenceMs: 0, strict: false }), 30, asks))).toEqual([
      1.8, 1.8, 0, 1.9, 0, 1.9,
    ]);
  });

  it('lets nobody overtake when it is strict', () => {
    const asks: Ask[] = [
      ['a', 0, 1],
      ['b', 4, 1],
      ['c', 8, 1],
      ['b', 8.5, 1],
    ];
    // c needs 1.9 s after 8; b's second request is behind it although b is awake.
    expect(waitsS(run(fcfs({ residenceMs: 0, strict: true }), 30, asks))).toEqual([1.8, 1.8, 1.9, 1.4]);
    expect(waitsS(run(fcfs({ residenceMs: 0, strict: false }), 30, asks))).toEqual([1.8, 1.8, 1.9, 0]);
  });
});

describe('first come first served with one awake at a time', () => {
  it('sends away what would fit beside it, and lets two wait in order', () => {
    const asks: Ask[] = [
      ['a', 0, 1],
      ['b', 0.1, 1],
      ['a', 2.5, 1],
    ];
    // a from 1.8 to 2.8; b, which waits, sleeps a at 2.8 and is up at 4.7; a, asked at 2.5, is held back: 5.7 + 1.9.
    expect(waitsS(run(fcfs({ residenceMs: 0, strict: false, alone: true }), 30, asks))).toEqual([
      1.8, 4.6, 5.1,
    ]);
    expect(waitsS(run(fcfs({ residenceMs: 0, strict: false }), 30, asks))).toEqual([1.8, 3.5, 0]);
  });
});

describe("the reference's timers", () => {
  it('let an idle victim go only after 5 s and at its next look', () => {
    // a is awake from 3.3 and looks each 2 s: 5.3, …, 11.3; b's wish of 6 counts at 11; b looks each second: at 12.
    expect(
      waitsS(
        run(reference(), 60, [
          ['a', 0, 1],
          ['b', 6, 1],
        ]),
      ),
    ).toEqual([3.3, 9.3]);
  });

  it('leave a busy one its 10 s, and answer 503 while it drains', () => {
    // b's wish counts at 9; a looks at 13.3, its 10 s are over, and ends at 18.3; b looks at 19 and serves from 22.3.
    const outcome = run(reference(), 60, [
      ['a', 0, 15],
      ['b', 4, 1],
      ['a', 14, 1],
    ]);
    expect(waitsS(outcome).slice(0, 2)).toEqual([3.3, 18.3]);
    // Refused at 14, 14.5, 15.5 and 17.5; at 21.5 a sleeps and takes it: its wish counts at 26.5.
    expect(waitsS(outcome)[2]).toBeGreaterThan(26.5 - 14);
  });
});

describe('the node', () => {
  it('counts one that starves as waiting to the end', () => {
    const idle: Policy = { decide: () => undefined };
    expect(waitsS(run(idle, 60, [['a', 100, 1]]))).toEqual([900]);
  });

  it('does not over-commit, whatever a policy asks', () => {
    const greedy: Policy = {
      decide: (node) => {
        for (const model of node.models) if (model.condition === 'asleep') node.wake(model);
      },
    };
    expect(() => run(greedy, 60, [['a', 0, 1]])).toThrow('wakes while asleep');
  });
});
