/** The end of a Model: pods first, then what they held, then its ways in, last the finalizer. Files stay on disk. */
import { finalizer } from '#proto/names.ts';
import { paths } from './api-paths.ts';
import { type ClusterView, noPods, replicaKey } from './cluster-view.ts';
import type { Effect } from './effects.ts';
import { isTerminating, type Model } from './kubernetes.ts';
import { endPod, forceGone } from './rollout.ts';
import { unroute } from './routing.ts';

export const hasFinalizer = (model: Model): boolean => (model.metadata.finalizers ?? []).includes(finalizer);

/** Under server-side apply the finalizer is this manager's own: applied with it, taken away without it. */
function finalizerEffect(model: Model, finalizers: string[]): Effect {
  const { namespace = '', name, uid } = model.metadata;
  return {
    type: 'apply',
    kind: 'models',
    path: paths.model(namespace, name),
    object: {
      apiVersion: model.apiVersion,
      kind: model.kind,
      metadata: { name, namespace, uid, ...(finalizers.length > 0 && { finalizers }) },
    },
    because: finalizers.length > 0 ? 'a new Model' : 'all that belonged to the Model is gone',
  };
}

export const addFinalizer = (model: Model): Effect => finalizerEffect(model, [finalizer]);

/** What ends a Model that is being deleted. */
export function endModel(view: ClusterView, model: Model): Effect[] {
  if (!hasFinalizer(model)) return [];
  const { namespace = '', name } = model.metadata;
  const pods = endPods(view, model, () => true, 'its Model is deleted');
  const ways = unroute(view, model);
  if (pods.remaining > 0) return [...pods.effects, ...ways];
  const prefix = `${namespace}/${name}/`;
  const isBound = view.books.some(({ bound }) => [...bound.keys()].some((key) => key.startsWith(prefix)));
  // The bindings leave with this very plan, as no pod holds them; the finalizer waits until they have.
  if (isBound || ways.length > 0) return ways.filter(({ kind, path }) => !isGoing(view, kind, path));
  return [finalizerEffect(model, [])];
}

/** A Service that is already being deleted needs no second call. */
function isGoing(view: ClusterView, kind: Effect['kind'], path: string): boolean {
  const [name = '', , namespace = ''] = path.split('/').reverse();
  const found = view.snapshot[kind].get(`${namespace}/${name}`);
  return found !== undefined && isTerminating(found);
}

/** Ends the pods of chosen replicas; `remaining` counts those still there, going ones included. */
export function endPods(
  view: ClusterView,
  model: Model,
  chosen: (replica: number) => boolean,
  because: string,
): { effects: Effect[]; remaining: number } {
  const { namespace = '', name } = model.metadata;
  const effects: Effect[] = [];
  let remaining = 0;
  for (const replica of (view.replicasWithPods.get(`${namespace}/${name}`) ?? []).filter(chosen)) {
    const { live, terminating } = view.podsOf.get(replicaKey(namespace, name, replica)) ?? noPods;
    remaining += live.length + terminating.length;
    effects.push(...live.map((pod) => endPod(view, pod, because)), ...forceGone(view, terminating));
  }
  return { effects, remaining };
}

/** Pods without a Model (its finalizer was taken away by hand): nobody else would end them before the garbage collector. */
export function orphanedPods(view: ClusterView): Effect[] {
  return [...view.replicasWithPods].flatMap(([key, replicas]) =>
    view.snapshot.models.has(key)
      ? []
      : replicas.flatMap((replica) =>
          (view.podsOf.get(`${key}/${replica}`) ?? noPods).live.map((pod) =>
            endPod(view, pod, 'its Model is gone'),
          ),
        ),
  );
}
