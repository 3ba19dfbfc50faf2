/** Seeds of a kind: what chance alone would bring about too seldom. Each draws of its own chance; all other seeds are as without. */
import { type Random, randomFor } from './random.ts';
import { type Action, GiB, MiB, type ModelPlan, type Plan } from './schedule.ts';

const base = (name: string, gpus: number[], bytes: number): ModelPlan => ({
  name,
  gpus,
  reservedBytes: Math.round(bytes),
  awakeBytes: Math.round(bytes),
  residueBytes: 0,
  bootMs: 2_000,
  sleepMs: 100,
  wakeMs: 100,
  popular: false,
  priority: 0,
  minRuntimeMs: 0,
  maxWaitTimeMs: 0,
  idleTimeoutMs: 600_000,
  drainTimeoutMs: 0,
});

const names = (count: number): string[] => Array.from({ length: count }, (_, at) => `m${at + 1}`);

const loop = (random: Random, model: string, calmAtMs: number): Action => ({
  atMs: random.between(0, 8_000),
  type: 'loop',
  model,
  clients: random.int(1, 2),
  workMs: random.pick([300, 1_000, 3_000]),
  thinkMs: random.pick([0, 3, 50]),
  requests: Math.ceil(calmAtMs / 1_000),
});

/**
 * Three or four models of which one fits at a time, short switches and turns, work for all until the end: a waiter that is passed
 * over waits far beyond its bound. One of them may come late, and boot against all others.
 */
function steady(seed: number, random: Random): Plan {
  const gpus = random.chance(0.3) ? 2 : 1;
  const gpuBytes = 48 * GiB;
  const calmAtMs = 150_000;
  const unequal = random.chance(0.25);
  const models = names(random.int(3, 4)).map((name, at) => ({
    ...base(
      name,
      gpus === 2 && at === 0 ? [0, 1] : [random.int(0, gpus - 1)],
      random.between(0.6, 0.8) * gpuBytes,
    ),
    residueBytes: random.pick([0, 300 * MiB]),
    bootMs: random.between(500, 3_000),
    sleepMs: random.between(20, 200),
    wakeMs: random.between(50, 300),
    priority: unequal ? random.int(-5, 5) : 0,
    minRuntimeMs: random.pick([0, 500, 1_500]),
    maxWaitTimeMs: random.pick([0, 500, 1_000]),
    drainTimeoutMs: random.pick([0, 200, 500]),
  }));
  const late = random.chance(0.5) ? models.length - 1 : -1;
  const actions = models.flatMap(({ name }, at): Action[] => {
    const atMs = at === late ? random.between(10_000, 40_000) : random.between(0, 1_000);
    return [
      { atMs, type: 'add', model: name },
      { ...loop(random, name, calmAtMs), ...(at === late && { atMs }) },
    ];
  });
  return { seed, gpus, gpuBytes, models, actions, calmAtMs, canary: false, faultless: true };
}

/** Two models that fit side by side but for head room, and grow. */
function pair(seed: number, random: Random): Plan {
  const gpuBytes = 24 * GiB;
  const calmAtMs = 60_000;
  const faultless = random.chance(0.3);
  const spare = random.int(2, 240) * MiB;
  const models = names(2).map((name) => ({
    ...base(name, [0], (gpuBytes - spare) / 2),
    maxWaitTimeMs: random.pick([0, 1_000]),
  }));
  const actions = models.flatMap(({ name }): Action[] => {
    const bytes = random.int(60, 120) * MiB;
    const grows: Action = {
      atMs: random.between(10_000, calmAtMs),
      type: 'engine-grows',
      model: name,
      bytes,
    };
    return [
      { atMs: random.between(0, 500), type: 'add', model: name },
      loop(random, name, calmAtMs),
      ...(faultless ? [] : [grows, { ...grows, atMs: random.between(10_000, calmAtMs) }]),
    ];
  });
  return { seed, gpus: 1, gpuBytes, models, actions, calmAtMs, canary: false, faultless };
}

/** Two large models whose wakes, or sleeps, take minutes, as where weights are read anew; few clients, each of whom may wait. */
function slow(seed: number, random: Random): Plan {
  const gpuBytes = 80 * GiB;
  const calmAtMs = 900_000;
  const bytes = random.between(62, 70) * GiB;
  const sleeps = random.chance(0.3);
  const models = names(2).map((name, at) => ({
    ...base(name, [0], bytes),
    ...(at === 0 && { [sleeps ? 'sleepMs' : 'wakeMs']: random.between(185_000, 235_000) }),
    minRuntimeMs: random.pick([0, 1_000]),
    maxWaitTimeMs: random.pick([0, 5_000]),
  }));
  const actions = models.flatMap(({ name }, at): Action[] => [
    { atMs: 100 * at, type: 'add', model: name },
    ...Array.from({ length: 3 }, (): Action => {
      const atMs = random.between(20_000, calmAtMs);
      return { atMs, type: 'arrive', model: name, workMs: random.exponential(3_000), patienceMs: null };
    }),
  ]);
  return { seed, gpus: 1, gpuBytes, models, actions, calmAtMs, canary: false, faultless: true };
}

/** Null: a seed like any other. */
export function familyPlan(seed: number): Plan | null {
  const random = randomFor(seed, 'family');
  const share = random.next();
  if (share < 0.06) return steady(seed, random);
  if (share < 0.08) return pair(seed, random);
  return share < 0.09 ? slow(seed, random) : null;
}
