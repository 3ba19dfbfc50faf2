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

/**
 * How long a waiter may wait when nothing fails: its age bound, then for each model of its component at most one turn, one
 * drain and one switch, and each of their boots once with what it waits for.
 */
export function waitBoundMs(plan: Plan, model: ModelPlan): number {
  const near = component(plan, model);
  // Settings that change while it runs: the longest that any may have.
  const changes = plan.actions.flatMap((action) => (action.type === 'settings' ? [action.change] : []));
  const turn = Math.min(
    turnMsMax,
    Math.max(
      highest([...near, ...changes].map((one) => one.minRuntimeMs ?? 0)),
      4 * highest(near.map((one) => one.sleepMs + one.wakeMs + slackMs)),
    ),
  );
  const drain = highest([...near, ...changes].map((one) => one.drainTimeoutMs ?? 0));
  const force = highest([...near, ...changes].map((one) => one.maxWaitTimeMs ?? 0));
  const switching =
    highest(near.map((one) => one.sleepMs)) + highest(near.map((one) => one.wakeMs)) + slackMs;
  const boots = sum(near.map((one) => one.bootMs + slackMs + turn + drain + switching));
  return Math.max(agedMs, force) + near.length * (turn + drain + switching) + boots + bootAgedMs;
}

/** After the last fault everything pending is finished within this. */
export function calmBoundMs(plan: Plan): number {
  return hangMs + backoffMs + 2 * highest(plan.models.map((model) => waitBoundMs(plan, model)));
}
