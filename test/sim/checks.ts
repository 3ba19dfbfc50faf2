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
const turnSwitches = 4;
/** Measuring after a sleep, messages and pauses: of one switch, and once in each wait. */
const settleMs = 600;
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

/** The longest of each part of its stay, ms; settings that change while it runs count at their longest. */
export function longest(plan: Plan, model: ModelPlan) {
  const changes = plan.actions.flatMap((action) =>
    action.type === 'settings' && action.model === model.name ? [action.change] : [],
  );
  const all = [model, ...changes];
  const switching = model.sleepMs + model.wakeMs + settleMs;
  const minRuntime = highest(all.map((one) => one.minRuntimeMs ?? 0));
  const turn = Math.min(turnMsMax, Math.max(minRuntime, turnSwitches * switching));
  const drain = highest(all.map((one) => one.drainTimeoutMs ?? 0));
  const force = highest(all.map((one) => one.maxWaitTimeMs ?? 0));
  const priorities = all.flatMap(({ priority }) => (priority === undefined ? [] : [priority]));
  return { switching, turn, drain, force, priorities, stay: turn + drain + switching };
}

/**
 * How long a waiter may wait when nothing fails: until it has aged (with unequal priorities) and may force; then each other model
 * of its component goes before it at most once, for a turn, a drain and a switch of its own; then its own switch. One that came
 * while its own model drained waited that, too.
 * @param boots models of the component that boot meanwhile: each once, aged, with what it waits for
 */
export function waitBoundMs(plan: Plan, model: ModelPlan, boots: ModelPlan[] = []): number {
  const near = component(plan, model);
  const parts = near.map((one) => longest(plan, one));
  const aged = new Set(parts.flatMap(({ priorities }) => priorities)).size > 1 ? agedMs : 0;
  const patience = Math.max(aged, highest(parts.map(({ force }) => force)));
  const own = longest(plan, model);
  const others = sum(parts.map(({ stay }) => stay)) - own.stay;
  const booting = boots.map((one) => one.bootMs + longest(plan, one).stay);
  const once = own.drain + own.switching + slackMs;
  return patience + others + once + (boots.length > 0 ? bootAgedMs + sum(booting) : 0);
}

/** After the last fault everything pending is finished within this. */
export function calmBoundMs(plan: Plan): number {
  const bound = (model: ModelPlan): number => waitBoundMs(plan, model, component(plan, model));
  return hangMs + backoffMs + 2 * highest(plan.models.map(bound));
}
