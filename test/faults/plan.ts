/** What happens in one life of two Models: settings, rounds of requests and kills, from a seed alone. */
import { type Random, randomFor } from '../sim/random.ts';

export const models = ['red', 'blue'] as const;
export type ModelName = (typeof models)[number];
export const otherOf = (model: ModelName): ModelName => (model === 'red' ? 'blue' : 'red');

/** `sim`: the simulated engine; `vllm`: the real one, on CPU. */
export type Kind = 'sim' | 'vllm';

export const phases = ['fetch', 'convert', 'stage', 'boot', 'serve', 'sleep', 'wake'] as const;
export type Phase = (typeof phases)[number];
export type Victim = 'agent' | 'converter' | 'engine';
/** Of a vLLM: the HTTP server, which all others descend from, the scheduler, the one that holds the weights. */
export const engineParts = ['server', 'core', 'worker'] as const;
export type EnginePart = (typeof engineParts)[number];

export interface Kill {
  victim: Victim;
  model: ModelName;
  /** Which of a real engine's processes. */
  part: EnginePart;
  when: /** Within a phase of that model: at this share of the phase's usual time, after its n-th begin. */
    | { phase: Phase; share: number; nth: number }
    /** So long after the kill before it, ms: in the recovery. */
    | { afterMs: number };
}

/** Who is asked in one round: one of them, or both at once, so that one waits for the other. */
export type Round = ModelName | 'both';

export interface Plan {
  seed: number;
  kind: Kind;
  kills: Kill[];
  rounds: Round[];
  /** Whose weights are to stay in host memory. */
  pinned: Record<ModelName, boolean>;
  /** A killed converter's lock is waited for, 30 s; else it is made old. */
  isLockWaitedFor: boolean;
  /** From a kill to the next start of an agent or a converter, ms. */
  restartMs: number;
  /** Of the simulated engine, by the names of its environment without VLLM_SIM_ (hack/engine/README.md). */
  simulation: Record<string, number>;
}

const victimsOf: Record<Phase, readonly Victim[]> = {
  fetch: ['converter', 'converter', 'converter', 'agent'],
  convert: ['converter', 'converter', 'converter', 'agent'],
  stage: ['agent', 'agent', 'engine'],
  boot: ['engine', 'agent'],
  serve: ['engine', 'agent'],
  sleep: ['engine', 'agent'],
  wake: ['engine', 'agent'],
};
const killsMax: Record<Kind, number> = { sim: 3, vllm: 2 };
const roundsOf: Record<Kind, number> = { sim: 6, vllm: 4 };
/** Phases that come once for each round or so; the others come again only after a kill. */
const recurring: readonly Phase[] = ['serve', 'sleep', 'wake'];
const lockWaitChance = 0.04;
const inRecoveryChance = 0.3;
const inRecoveryMsMax: Record<Kind, number> = { sim: 3_000, vllm: 20_000 };
const restartMsMax = 500;

function killAt(random: Random, kind: Kind, earlier: readonly Kill[]): Kill {
  const model = random.pick(models);
  const part = random.pick(engineParts);
  if (earlier.length > 0 && random.chance(inRecoveryChance)) {
    const victim = random.pick(['agent', 'engine', 'converter'] as const);
    return { victim, model, part, when: { afterMs: Math.round(random.between(0, inRecoveryMsMax[kind])) } };
  }
  const phase = random.pick(phases);
  const victim = random.pick(victimsOf[phase]);
  const before = earlier.filter(
    ({ when, victim: of, model: who }) =>
      'phase' in when && when.phase === phase && of === victim && who === model,
  ).length;
  const nth = recurring.includes(phase) ? random.int(1, 2) : 1 + before;
  return { victim, model, part, when: { phase, share: random.next(), nth } };
}

/** Two that ask one after the other make the other one sleep each time; both at once make one wait. */
function roundsFor(random: Random, kind: Kind): Round[] {
  const first = random.pick(models);
  return Array.from({ length: roundsOf[kind] }, (_, n): Round => {
    if (random.chance(0.25)) return 'both';
    return n % 2 === 0 ? first : otherOf(first);
  });
}

export function planFor(seed: number, kind: Kind): Plan {
  const random = randomFor(seed, `life ${kind}`);
  const kills: Kill[] = [];
  for (let left = random.int(1, killsMax[kind]); left > 0; left--) kills.push(killAt(random, kind, kills));
  return {
    seed,
    kind,
    kills,
    rounds: roundsFor(random, kind),
    pinned: { red: random.chance(0.5), blue: random.chance(0.5) },
    isLockWaitedFor: random.chance(lockWaitChance),
    restartMs: random.int(0, restartMsMax),
    simulation: {
      BOOT_SECONDS: random.between(0.2, 0.8),
      SLEEP_MS: random.between(20, 120),
      WAKE_BASE_MS: random.between(20, 200),
      WAKE_GB_PER_SECOND: 500,
      RESIDUE_MIB: random.int(0, 900),
      TOKENS_PER_SECOND: 200,
    },
  };
}

/** The same life without a kill: how long its phases take here, and what its engines answer. */
export const calmPlan = (kind: Kind): Plan => ({
  ...planFor(0, kind),
  kills: [],
  rounds: ['red', 'blue', 'red', 'blue', 'both'],
  pinned: { red: true, blue: true },
});

export function killText({ victim, model, part, when }: Kill, kind: Kind): string {
  const who =
    victim === 'agent'
      ? 'the agent'
      : `${model}'s ${victim}${victim === 'engine' && kind === 'vllm' ? ` (${part})` : ''}`;
  return 'afterMs' in when
    ? `${who} ${when.afterMs} ms later`
    : `${who} at ${Math.round(when.share * 100)} % of ${model}'s ${when.phase}${when.nth > 1 ? ` (${when.nth})` : ''}`;
}
