/** What must never happen, judged from outside: by the simulated GPU, the engines and the clients, never by the core's books. */
import type { ModelPlan, Plan } from './schedule.ts';

export interface Violation {
  kind: string;
  text: string;
  atMs: number;
}

/** Bounds as docs/arbiter.md derives them, from the constants it names. */
const agedMs = 30_000;
const bootAgedMs = 60_000;
const turnMsMax = 60_000;
/** Measuring after a sleep, messages and pauses of one switch. */
const slackMs = 2_000;
/** Engines that hang are noticed by their calls' time limits (boots: 30 min), then boot again after a pause (5 min). */
const hangMs = 35 * 60_000;
const backoffMs = 6 * 60_000;

const sum = (numbers: number[]): number => numbers.reduce((total, one) => total + one, 0);
const highest = (numbers: number[]): number => numbers.reduce((max, one) => Math.max(max, one), 0);

/** Models that share a GPU with this one, directly or through others; itself included. */
export function component(plan: Plan, model: ModelPlan): ModelPlan[] {
  const gpus = new Set(model.gpus);
  for (let grew = true; grew; ) {
    grew = false;
    for (const other of plan.models) {
      if (!other.gpus.some((gpu) => gpus.has(gpu)) || other.gpus.every((gpu) => gpus.has(gpu))) continue;
      for (const gpu of other.gpus) gpus.add(gpu);
      grew = true;
    }
  }
  return plan.models.filter((other) => other.gpus.some((gpu) => gpus.has(gpu)));
}

/** The longest of each part of a switch among these models, ms; settings that change while it runs count at their longest. */
function longest(plan: Plan, near: ModelPlan[]) {
  const changes = plan.actions.flatMap((action) => (action.type === 'settings' ? [action.change] : []));
  const all = [...near, ...changes];
  const switching =
    highest(near.map((one) => one.sleepMs)) + highest(near.map((one) => one.wakeMs)) + slackMs;
  const minRuntime = highest(all.map((one) => one.minRuntimeMs ?? 0));
  const measuredSwitch = highest(near.map((one) => one.sleepMs + one.wakeMs)) + slackMs;
  const turn = Math.min(turnMsMax, Math.max(minRuntime, 4 * measuredSwitch));
  const drain = highest(all.map((one) => one.drainTimeoutMs ?? 0));
  const force = highest(all.map((one) => one.maxWaitTimeMs ?? 0));
  const priorities = new Set(all.flatMap(({ priority }) => (priority === undefined ? [] : [priority])));
  return { turn, drain, force, switching, equal: priorities.size <= 1 };
}

/**
 * How long a waiter may wait when nothing fails and nothing boots: each model of its component goes before it at most once,
 * each for a turn (or until it may be forced), a drain and a switch; with unequal priorities that begins when it has aged.
 */
export function waitBoundMs(plan: Plan, model: ModelPlan): number {
  const near = component(plan, model);
  const { turn, drain, force, switching, equal } = longest(plan, near);
  return (equal ? 0 : agedMs) + near.length * (Math.max(turn, force) + drain + switching);
}

/** The same while pods of its component boot: each once, aged, with what it waits for. */
export function waitBoundWithBootsMs(plan: Plan, model: ModelPlan): number {
  const near = component(plan, model);
  const { turn, drain, force, switching } = longest(plan, near);
  const boots = sum(near.map((one) => one.bootMs + Math.max(turn, force) + drain + switching));
  return waitBoundMs(plan, model) + bootAgedMs + boots;
}

/** After the last fault everything pending is finished within this. */
export function calmBoundMs(plan: Plan): number {
  return hangMs + backoffMs + 2 * highest(plan.models.map((model) => waitBoundWithBootsMs(plan, model)));
}
