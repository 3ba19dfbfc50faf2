import { describe, expect, it } from 'vitest';
import { defaultSettings } from '#proto/settings.ts';
import { waitBoundMs } from '../../../../hack/benchmarks/policy/bound.ts';
import { OurNode } from '../../../../hack/benchmarks/policy/ours.ts';
import { GB, modelOf, type Outcome, scenarioOf } from '../../../../hack/benchmarks/policy/scenario.ts';

type Ask = [model: 'a' | 'b', atS: number, workS: number];

const scenario = (gigabytes: number, asks: Ask[]) =>
  scenarioOf(
    'case',
    ['a', 'b'].map((name) => modelOf(name, gigabytes * GB)),
    asks.map(([model, atS, workS]) => ({
      atMs: atS * 1000,
      model: 'ab'.indexOf(model),
      workMs: workS * 1000,
    })),
  );
const run = (gigabytes: number, asks: Ask[], settings = defaultSettings): Outcome =>
  new OurNode(scenario(gigabytes, asks), settings).run(1e6);

/** Messages and measurements of one switch, s. */
const slackS = 0.1;

function expectWaits({ waitsMs }: Outcome, wanted: number[]): void {
  expect(waitsMs).toHaveLength(wanted.length);
  for (const [at, wait] of wanted.entries()) {
    expect(waitsMs[at]! / 1000).toBeGreaterThanOrEqual(wait);
    expect(waitsMs[at]! / 1000).toBeLessThan(wait + slackS);
  }
}

describe('our node', () => {
  it('wakes both where they fit', () => {
    const outcome = run(30, [
      ['a', 0, 1],
      ['b', 1, 1],
      ['a', 5, 1],
    ]);
    expectWaits(outcome, [1.8, 1.8, 0]);
    expect(outcome).toMatchObject({ wakes: 2, sleeps: 0 });
  });

  it('lets an idle one go at once', () => {
    expectWaits(
      run(60, [
        ['a', 0, 1],
        ['b', 6, 1],
      ]),
      [3.3, 3.4],
    );
  });

  it('leaves a busy one its turn, then drains it', () => {
    // a serves from 3.3; its turn of 4 switches ends at 16.9 at the latest, its stream at 23.3.
    const outcome = run(60, [
      ['a', 0, 20],
      ['b', 4, 1],
      ['a', 22, 1],
    ]);
    // b serves from 26.7 to 27.7 and goes at once, idle: a serves again from 31.1.
    expectWaits(outcome, [3.3, 22.7, 9.1]);
    expect(outcome).toMatchObject({ wakes: 3, sleeps: 2 });
  });

  it('freezes what outlasts the drain, and counts the freeze as waiting', () => {
    const settings = { ...defaultSettings, sleep: { ...defaultSettings.sleep, drainTimeoutMs: 1_000 } };
    const outcome = run(
      60,
      [
        ['a', 0, 60],
        ['b', 4, 2],
      ],
      settings,
    );
    const [frozen, other] = [...outcome.waitsMs].map((ms) => ms / 1000);
    // Its own wake, then b's switch, b's work and the switch back.
    expect(frozen).toBeGreaterThan(3.3 + 3.4 + 2 + 3.4);
    expect(frozen).toBeLessThan(3.3 + 3.4 + 2 + 3.4 + 4 * slackS);
    expect(outcome.longestWaitMs).toBeCloseTo(Math.max(other! * 1000, 3_400 + 2_000 + 3_400), -3);
  });

  it('has a bound that grows with the models', () => {
    const two = waitBoundMs(scenario(60, []), defaultSettings);
    // Twice: a turn of 4 × 5.4 s, 30 s of draining, 5.4 s of switching.
    expect(two).toBeCloseTo(2 * (21_600 + 30_000 + 5_400));
  });
});
