/** What happens to a node in one seed: its GPUs and models, and a list of actions that a failing run can be shrunk by. */
import { familyPlan } from './families.ts';
import { type Random, randomFor } from './random.ts';

export const GiB = 2 ** 30;
export const MiB = 2 ** 20;

export interface ModelPlan {
  name: string;
  gpus: number[];
  reservedBytes: number;
  awakeBytes: number;
  residueBytes: number;
  bootMs: number;
  sleepMs: number;
  wakeMs: number;
  popular: boolean;
  priority: number;
  minRuntimeMs: number;
  maxWaitTimeMs: number;
  idleTimeoutMs: number;
  drainTimeoutMs: number;
  /** Each sleep in this time is refused, as where its image cannot be written. */
  refusesSleep?: { fromMs: number; toMs: number };
}

export type OneShotFault =
  | 'sleep-keeps'
  | 'sleep-fails'
  | 'sleep-hangs'
  | 'wake-fails'
  | 'wake-leaks'
  | 'wake-hangs'
  /** Only where a canary is asked: it wakes and talks nonsense from then on. */
  | 'wake-garbles'
  | 'boot-fails'
  | 'boot-hangs';

const deadlyEffects = [
  'barrier',
  'sleep-engine',
  'measure',
  'wake-engine',
  'grant',
  'tell',
  'restart-engine',
] as const;
export type DeadlyEffect = (typeof deadlyEffects)[number];

export type Action = { atMs: number } & (
  | { type: 'arrive'; model: string; workMs: number; patienceMs: number | null }
  /** Clients that each ask again as soon as they are served, `requests` times in all. */
  | { type: 'loop'; model: string; clients: number; workMs: number; thinkMs: number; requests: number }
  | { type: 'add'; model: string }
  | { type: 'roll'; model: string; fails: boolean }
  | { type: 'delete'; model: string }
  | {
      type: 'settings';
      model: string;
      change: Partial<
        Pick<ModelPlan, 'priority' | 'minRuntimeMs' | 'maxWaitTimeMs' | 'idleTimeoutMs' | 'drainTimeoutMs'>
      >;
    }
  | { type: 'fault'; model: string; fault: OneShotFault }
  | { type: 'engine-dies'; model: string }
  | { type: 'engine-grows'; model: string; bytes: number }
  | { type: 'launcher-restarts'; model: string }
  | { type: 'sidecar-restarts'; model: string; forMs: number }
  | { type: 'link-flaps'; model: string; forMs: number }
  | { type: 'agent-dies'; forMs: number }
  /** The agent dies right after it has commanded this for the next time. */
  | { type: 'agent-dies-after'; effect: DeadlyEffect; forMs: number }
  | { type: 'api-away'; forMs: number }
  | { type: 'resource-gone'; gpu: number; forMs: number }
  | { type: 'gpu-unusable'; gpu: number; forMs: number }
  | { type: 'gpu-vanishes'; gpu: number; forMs: number }
  | { type: 'stranger'; gpu: number; bytes: number; forMs: number }
  | { type: 'stall'; forMs: number }
  | { type: 'measurements-slow'; forMs: number; byMs: number }
);

export interface Plan {
  seed: number;
  gpus: number;
  gpuBytes: number;
  models: ModelPlan[];
  actions: Action[];
  /** From then on nothing new happens and everything pending must finish. */
  calmAtMs: number;
  /** The agent asks a canary's question after each boot and wake. */
  canary: boolean;
  /** This GPU vanishes and never comes back. */
  lostGpu?: number;
  /** No fault of any kind: the waiting bound is checked for every wait. */
  faultless: boolean;
}

/** Kinds of trouble; each seed switches some off. */
const troubles = [
  'faults',
  'deaths',
  'launchers',
  'sidecars',
  'agent',
  'api',
  'resources',
  'gpus',
  'strangers',
  'stalls',
  'pods',
  'rolls',
  'settings',
  'growth',
  'slow-measurements',
] as const;
type Trouble = (typeof troubles)[number];

const eventsMean = 160;

/** Bytes that a model reserves on each of its GPUs. */
function size(
  random: Random,
  from: { most: number; gpuBytes: number; contended: boolean; popular: boolean },
): number {
  const { most, gpuBytes, contended, popular } = from;
  if (popular) return Math.round(most * random.between(0.1, 0.3));
  // Two halves fit with little to spare.
  if (random.chance(0.15) && most > gpuBytes / 2) return gpuBytes / 2 - 768 * MiB;
  const large = random.chance(contended ? 0.9 : 0.5);
  return Math.round(most * (large ? random.between(0.75, 1) : random.between(0.15, 0.6)));
}

/** Fairness and sleep settings; where models contend turns are short, so that a seed sees many. */
function habits(random: Random, contended: boolean) {
  return {
    priority: random.chance(contended ? 0.5 : 0.3) ? random.int(-100, 100) : 0,
    minRuntimeMs: random.pick(contended ? [0, 1_000, 3_000] : [0, 1_000, 5_000, 10_000, 10_000, 20_000]),
    maxWaitTimeMs: random.pick([0, 1_000, 5_000, 5_000, 10_000]),
    idleTimeoutMs: random.pick([1_000, 5_000, 20_000, 60_000, 600_000]),
    drainTimeoutMs: random.pick(contended ? [0, 1_000, 3_000] : [0, 1_000, 5_000, 30_000]),
  };
}

/** @param popularBytes on each GPU, of the models drawn before: popular ones come first, so that all others fit beside them */
function modelPlan(
  random: Random,
  at: number,
  plan: { gpus: number; gpuBytes: number; contended: boolean },
  popularBytes: number[],
): ModelPlan {
  const { gpus, gpuBytes, contended } = plan;
  const wanted = random.chance(0.25) ? random.int(2, Math.max(2, gpus)) : 1;
  const first = random.int(0, gpus - 1);
  const chosen = [...Array(Math.min(wanted, gpus)).keys()].map((at) => (first + at) % gpus);
  const most = gpuBytes - Math.max(...chosen.map((gpu) => popularBytes[gpu]!)) - 7 * GiB;
  const mayBePopular = at === 0 || (at === 1 && popularBytes.some((bytes) => bytes > 0));
  const popular = mayBePopular && random.chance(0.25);
  const reservedBytes = size(random, { most, gpuBytes, contended, popular });
  if (popular) for (const gpu of chosen) popularBytes[gpu]! += reservedBytes;
  return {
    name: `m${at + 1}`,
    gpus: chosen,
    reservedBytes,
    awakeBytes: Math.round(reservedBytes * (random.chance(0.5) ? 1 : random.between(0.85, 1))),
    residueBytes: random.chance(0.4) ? 0 : Math.round(random.between(100, 500)) * MiB,
    bootMs: contended ? random.between(1_000, 8_000) : random.between(2_000, 60_000),
    sleepMs: random.chance(0.2) ? random.between(1_000, 10_000) : random.between(20, 400),
    wakeMs: random.chance(0.2) ? random.between(1_000, 6_000) : random.between(50, 800),
    popular,
    ...habits(random, contended),
  };
}

/** Bursts, rare visitors and steady load, one habit for each model. */
function arrivals(
  random: Random,
  model: ModelPlan,
  plan: { calmAtMs: number; contended: boolean; budget: number },
): Action[] {
  const { calmAtMs: untilMs, contended, budget } = plan;
  const actions: Action[] = [];
  const habit = random.pick(['rare', 'burst', 'steady', 'rush'] as const);
  const gapMs = { rare: 30_000, burst: 25_000, steady: 1_500, rush: 5_000 }[habit];
  const perBurst = { rare: 1, burst: 8, steady: 1, rush: 3 }[habit];
  const workMs = random.pick([100, 500, 2_000, 8_000]);
  const leaver = random.pick([0, 0, 0.1, 0.4]);
  if (random.chance(contended ? 0.7 : 0.25)) {
    const atMs = random.between(0, untilMs / 3);
    const clients = random.int(1, 4);
    // Steady load: all its requests together last for most of the time.
    const spanMs = random.between(0.3, 0.9) * (untilMs - atMs);
    const work = (spanMs * clients) / budget;
    const thinkMs = random.pick([0, 0, 3, 200]);
    actions.push({ atMs, type: 'loop', model: model.name, clients, workMs: work, thinkMs, requests: budget });
    if (random.chance(0.5)) return actions;
  }
  if (random.chance(0.15)) {
    const atMs = random.between(0, untilMs);
    actions.push({
      atMs,
      type: 'arrive',
      model: model.name,
      workMs: random.between(20_000, 90_000),
      patienceMs: null,
    });
  }
  for (
    let atMs = random.between(0, 20_000);
    atMs < untilMs && actions.length < budget;
    atMs += random.exponential(gapMs)
  ) {
    for (let client = random.int(1, perBurst); client > 0; client--) {
      const patienceMs = random.chance(leaver) ? random.exponential(3_000) : null;
      actions.push({
        atMs: atMs + random.between(0, 50),
        type: 'arrive',
        model: model.name,
        workMs: random.exponential(workMs),
        patienceMs,
      });
    }
  }
  return actions;
}

type Maker = (random: Random, plan: Plan, model: string, gpu: number) => Action | Action[];
type Body = Action extends infer A ? (A extends Action ? Omit<A, 'atMs'> : never) : never;
const now = (body: Body): Action => ({ atMs: 0, ...body }) as Action;

const makers: Record<Trouble, Maker> = {
  faults: (random, _plan, model) => {
    const fault = random.pick<OneShotFault>([
      'sleep-keeps',
      'sleep-fails',
      'sleep-hangs',
      'wake-fails',
      'wake-leaks',
      'wake-hangs',
      'boot-fails',
      'boot-hangs',
    ]);
    const times = random.pick([1, 1, 2, 4]);
    return Array.from({ length: times }, () => now({ type: 'fault', model, fault }));
  },
  deaths: (_random, _plan, model) => now({ type: 'engine-dies', model }),
  launchers: (_random, _plan, model) => now({ type: 'launcher-restarts', model }),
  sidecars: (random, _plan, model) =>
    now({ type: random.pick(['sidecar-restarts', 'link-flaps']), model, forMs: random.exponential(1_500) }),
  agent: (random) => {
    const forMs = random.pick([5, 300, 2_000, 8_000]);
    if (random.chance(0.3)) return now({ type: 'agent-dies', forMs });
    return now({ type: 'agent-dies-after', effect: random.pick(deadlyEffects), forMs });
  },
  api: (random) => now({ type: 'api-away', forMs: random.exponential(30_000) }),
  resources: (random, _plan, _model, gpu) =>
    now({ type: 'resource-gone', gpu, forMs: random.exponential(10_000) }),
  gpus: (random, _plan, _model, gpu) =>
    now({
      type: random.pick(['gpu-unusable', 'gpu-unusable', 'gpu-vanishes']),
      gpu,
      forMs: random.exponential(20_000),
    }),
  strangers: (random, plan, _model, gpu) =>
    now({
      type: 'stranger',
      gpu,
      bytes: Math.round(random.between(0.02, 0.9) * plan.gpuBytes),
      forMs: random.exponential(20_000),
    }),
  stalls: (random) => now({ type: 'stall', forMs: random.pick([200, 4_000, 20_000, 120_000]) }),
  pods: (random, _plan, model) => {
    const deleted = now({ type: 'delete', model });
    return random.chance(0.7)
      ? [deleted, { ...now({ type: 'add', model }), atMs: random.exponential(30_000) }]
      : deleted;
  },
  rolls: (random, _plan, model) => now({ type: 'roll', model, fails: random.chance(0.3) }),
  settings: (random, _plan, model) => {
    const change = random.pick([
      { priority: random.int(-100, 100) },
      { minRuntimeMs: random.pick([0, 5_000, 30_000]) },
      { maxWaitTimeMs: random.pick([0, 1_000, 10_000]) },
      { idleTimeoutMs: random.pick([500, 10_000, 60_000]) },
      { drainTimeoutMs: random.pick([0, 2_000, 20_000]) },
    ]);
    return now({ type: 'settings', model, change });
  },
  growth: (random, _plan, model) => now({ type: 'engine-grows', model, bytes: random.int(1, 120) * MiB }),
  'slow-measurements': (random) =>
    now({ type: 'measurements-slow', forMs: random.exponential(20_000), byMs: random.pick([1_000, 5_000]) }),
};

/** In some seeds with faults; of its own chance, so that all else in a seed is as without it. */
function addCanary(plan: Plan): void {
  const random = randomFor(plan.seed, 'canary');
  plan.canary = !plan.faultless && random.chance(0.4);
  if (!plan.canary) return;
  for (let times = random.int(0, 6); times > 0; times--) {
    const { name } = random.pick(plan.models);
    plan.actions.push({
      atMs: random.between(1_000, plan.calmAtMs),
      type: 'fault',
      model: name,
      fault: 'wake-garbles',
    });
  }
}

/** Longer than any seed. */
const foreverMs = 1e12;

/** In some seeds with faults sleeps are refused for a while, or for ever; of their own chance, as the canary. */
function addRefusals(plan: Plan): void {
  const random = randomFor(plan.seed, 'refusals');
  if (plan.faultless || !random.chance(0.3)) return;
  for (let times = random.int(1, 2); times > 0; times--) {
    const fromMs = random.between(0, plan.calmAtMs);
    const toMs = random.chance(0.4) ? foreverMs : fromMs + random.exponential(40_000);
    random.pick(plan.models).refusesSleep = { fromMs, toMs };
  }
}

/** In some seeds with faults and several GPUs; of its own chance. Models that need it are lost with it, all others go on. */
function loseGpu(plan: Plan): void {
  const random = randomFor(plan.seed, 'lost GPU');
  if (plan.faultless || plan.gpus < 2 || !random.chance(0.15)) return;
  plan.lostGpu = random.int(0, plan.gpus - 1);
  const atMs = random.between(5_000, plan.calmAtMs);
  plan.actions.push({ atMs, type: 'gpu-vanishes', gpu: plan.lostGpu, forMs: foreverMs });
}

/** All that one seed does, drawn before anything runs. */
export function planFor(seed: number): Plan {
  return familyPlan(seed) ?? mixedPlan(seed);
}

function mixedPlan(seed: number): Plan {
  const random = randomFor(seed, 'plan');
  const contended = random.chance(0.4);
  const gpus = contended ? random.int(1, 2) : random.pick([1, 1, 2, 2, 3, 4, 8]);
  const gpuBytes = random.pick([16, 24, 48, 80]) * GiB;
  const popularBytes = Array<number>(gpus).fill(0);
  const count = contended ? random.int(2, 4) : random.int(2, Math.min(12, 3 + 2 * gpus));
  const models = Array.from({ length: count }, (_, at) =>
    modelPlan(random, at, { gpus, gpuBytes, contended }, popularBytes),
  );
  const calmAtMs = random.pick([60_000, 180_000, 300_000]);
  const faultless = random.chance(contended ? 0.5 : 0.15);
  const plan: Plan = { seed, gpus, gpuBytes, models, actions: [], calmAtMs, faultless, canary: false };
  const budget = Math.ceil((contended ? 2 : 1) * (eventsMean / Math.sqrt(count)));
  for (const model of models) {
    const late = random.chance(0.3) ? random.exponential(20_000) : random.between(0, 2_000);
    plan.actions.push({ atMs: late, type: 'add', model: model.name });
    plan.actions.push(...arrivals(random, model, { calmAtMs, contended, budget }));
  }
  const on = troubles.filter((kind) => (kind === 'settings' || !faultless) && random.chance(0.35));
  for (const kind of on) {
    const times = random.int(1, 4);
    for (let time = 0; time < times; time++) {
      const atMs = random.between(1_000, calmAtMs);
      const made = makers[kind](random, plan, random.pick(models).name, random.int(0, gpus - 1));
      for (const action of Array.isArray(made) ? made : [made]) {
        plan.actions.push({ ...action, atMs: Math.min(calmAtMs, atMs + action.atMs) });
      }
    }
  }
  addCanary(plan);
  addRefusals(plan);
  loseGpu(plan);
  plan.actions.sort((a, b) => a.atMs - b.atMs);
  return plan;
}
