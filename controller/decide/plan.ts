/**
 * From a snapshot of the cluster to what must change in it. A Model's life is a row of small phases, each in its own
 * file: deletion, placement, bindings, fetch, pods, Service and route, status.
 */
import { bindingEffects } from './bindings.ts';
import { type ClusterView, viewOf } from './cluster-view.ts';
import { addFinalizer, endModel, endPods, hasFinalizer, orphanedPods } from './deletion.ts';
import type { Effect } from './effects.ts';
import { type Fetches, fetchesOf, fetchJobName, fetchStep, unwantedFetches } from './fetch.ts';
import { isTerminating, type Model } from './kubernetes.ts';
import { type Progress, statusEffects } from './model-status.ts';
import { nodeOfReplica, type Placement, placeAll } from './placement.ts';
import { type ImageRolls, imageRollsOf, rollReplica } from './rollout.ts';
import { nameOwners, routingOf } from './routing.ts';
import type { ControllerSettings } from './settings.ts';
import { reachableEffects } from './silence.ts';
import type { Memory, Snapshot } from './snapshot.ts';

export interface Plan {
  effects: Effect[];
  /** When the plan may differ although nothing changed, ms; null when time alone changes nothing. */
  wakeAtMs: number | null;
}

interface Context {
  view: ClusterView;
  places: ReadonlyMap<string, Placement[]>;
  fetches: Fetches;
  imageRolls: ImageRolls;
  owners: ReadonlyMap<string, Model>;
}

/** The plan for a snapshot of which every list is complete. */
export function plan(snapshot: Snapshot, memory: Memory, settings: ControllerSettings, nowMs: number): Plan {
  const view = viewOf(snapshot, memory, settings, nowMs);
  const context: Context = {
    view,
    places: placeAll(view),
    fetches: fetchesOf(view),
    imageRolls: imageRollsOf(view),
    owners: nameOwners(view),
  };
  const models = view.models.map((model) => planModel(context, model));
  const wakes = [view.nextSilenceMs, ...models.map(({ wakeAtMs }) => wakeAtMs)].filter((at) => at !== null);
  return {
    effects: [
      ...bindingEffects(view),
      ...reachableEffects(view, memory),
      ...models.flatMap(({ effects }) => effects),
      ...orphanedPods(view),
      ...unwantedFetches(view, context.fetches),
    ],
    wakeAtMs: wakes.length > 0 ? Math.min(...wakes) : null,
  };
}

function planModel(context: Context, model: Model): Plan {
  const { view } = context;
  if (isTerminating(model)) return { effects: endModel(view, model), wakeAtMs: null };
  if (!hasFinalizer(model)) return { effects: [addFinalizer(model)], wakeAtMs: null };
  const placements = context.places.get(`${model.metadata.namespace}/${model.metadata.name}`) ?? [];
  // The bindings of those that were placed bring the next plan.
  if (placements.some(({ isDeferred }) => isDeferred)) return { effects: [], wakeAtMs: null };
  const files = fetchAll(context, model, placements);
  const pods = rollAll(context, model, placements, files.progress);
  const surplus = endPods(
    view,
    model,
    (replica) => replica >= model.spec.replicas,
    'fewer replicas are wanted',
  );
  const routing = routingOf(view, context.owners, model);
  const progress: Progress = { model, placements, fetches: files.progress, rollouts: pods.rollouts, routing };
  const wakes = [...files.wakes, ...pods.wakes];
  return {
    effects: [
      ...files.effects,
      ...routing.effects,
      ...pods.effects,
      ...surplus.effects,
      ...statusEffects(view, progress),
    ],
    wakeAtMs: wakes.length > 0 ? Math.min(...wakes) : null,
  };
}

/** One fetch for each node that replicas are placed on. */
function fetchAll({ view, fetches }: Context, model: Model, placements: Placement[]) {
  const steps = new Map<string, ReturnType<typeof fetchStep>>();
  const progress: Progress['fetches'] = [];
  const key = `${model.metadata.namespace}/${model.metadata.name}`;
  for (const placement of placements) {
    const { replica, target } = placement;
    const stayNode = nodeOfReplica(view, `${key}/${replica}`, placement);
    if (stayNode) fetches.kept.add(fetchJobName(model.spec, stayNode));
    if (!target || !isBound(target, `${key}/${replica}`)) continue;
    const node = target[0]!.node;
    const step = steps.get(node) ?? fetchStep(view, fetches, model, node);
    steps.set(node, step);
    progress.push({ replica, fetch: step.fetch });
  }
  const all = [...steps.values()];
  return {
    progress,
    effects: all.flatMap(({ effects }) => effects),
    wakes: all.flatMap(({ wakeAtMs }) => wakeAtMs ?? []),
  };
}

/** The order is binding, then fetch, then pod: a place counts once it is reserved in the cluster, not in a plan alone. */
const isBound = (target: NonNullable<Placement['target']>, key: string): boolean =>
  target.every(({ bound, uuid }) => bound.get(key)?.uuid === uuid);

function rollAll(context: Context, model: Model, placements: Placement[], fetched: Progress['fetches']) {
  const { view, imageRolls } = context;
  const pathOf = new Map(
    fetched.flatMap(({ replica, fetch }) => (fetch.state === 'done' ? [[replica, fetch.path] as const] : [])),
  );
  const results = placements.map((placement) => {
    const weightsPath = pathOf.get(placement.replica) ?? null;
    return rollReplica(view, model, placement, { weightsPath, imageRolls });
  });
  return {
    rollouts: results.map(({ rollout }) => rollout),
    effects: results.flatMap(({ effects }) => effects),
    wakes: results.flatMap(({ wakeAtMs }) => wakeAtMs ?? []),
  };
}
