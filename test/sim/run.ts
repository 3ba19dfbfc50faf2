/** One seed: run, and when it fails the shortest schedule that still fails alike, with its timeline. */
import type { Violation } from './checks.ts';
import { type Action, type Plan, planFor } from './schedule.ts';
import { World } from './world.ts';

export interface SeedResult {
  seed: number;
  decisions: number;
  requests: number;
  violation: Violation | null;
}

export function runSeed(seed: number): SeedResult {
  const world = new World(planFor(seed), { timeline: false });
  const violation = world.run();
  return { seed, decisions: world.host.decisions, requests: world.clients.length, violation };
}

/** Runs that shrinking may take. */
const shrinkRunsMax = 600;

/**
 * Drops actions, large pieces first, as long as a rule of the same kind is broken.
 * @returns the plan with what is left
 */
export function shrink(plan: Plan, kind: string): { plan: Plan; runs: number } {
  let actions: Action[] = plan.actions;
  let runs = 0;
  const fails = (some: Action[]): boolean => {
    runs++;
    return new World({ ...plan, actions: some }, { timeline: false }).run()?.kind === kind;
  };
  for (
    let size = Math.ceil(actions.length / 2);
    size >= 1 && runs < shrinkRunsMax;
    size = size === 1 ? 0 : Math.ceil(size / 2)
  ) {
    for (let at = 0; at < actions.length && runs < shrinkRunsMax; ) {
      const without = [...actions.slice(0, at), ...actions.slice(at + size)];
      if (fails(without)) actions = without;
      else at += size;
    }
  }
  return { plan: { ...plan, actions }, runs };
}

/** Lines of the timeline that are shown: the end is what matters. */
const timelineLinesShown = 120;
const lineCharactersMax = 240;

/** All that a person needs to understand one failing seed. */
export function report(result: SeedResult): string {
  const plan = planFor(result.seed);
  const { kind, text, atMs } = result.violation!;
  const { plan: small, runs } = shrink(plan, kind);
  const world = new World(small, { timeline: true });
  const violation = world.run() ?? result.violation!;
  const lines = world.timeline!.map((line) => line.slice(0, lineCharactersMax));
  const left = small.actions.map((action) => `  ${JSON.stringify(action)}`);
  const used = new Set(small.actions.flatMap((action) => ('model' in action ? [action.model] : [])));
  const models = small.models
    .filter(({ name }) => used.has(name))
    .map((model) => `  ${JSON.stringify(model)}`);
  return [
    `seed ${result.seed}: ${kind} at ${(atMs / 1000).toFixed(3)} s: ${text}`,
    `again: node test/sim/main.ts --seed ${result.seed} --seeds 1`,
    `shrunk from ${plan.actions.length} to ${small.actions.length} actions in ${runs} runs, then: ${violation.text}`,
    `${small.gpus} GPUs of ${small.gpuBytes / 2 ** 30} GiB; models:`,
    ...models,
    'schedule:',
    ...left,
    `timeline${lines.length > timelineLinesShown ? ` (last ${timelineLinesShown} of ${lines.length} lines)` : ''}:`,
    ...lines.slice(-timelineLinesShown),
  ].join('\n');
}
