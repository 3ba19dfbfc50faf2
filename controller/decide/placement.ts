/**
 * Where every replica lives. Bindings in the GPU resources are the memory, pods the second one (a GPU resource that was
 * deleted by hand gets its bindings back from them). What has a place keeps it as long as it may; nothing moves unless
 * it must.
 */
import { annotations } from '#proto/names.ts';
import { bind, estimateOrNull, measuredBytes, reservedBytes } from './capacity.ts';
import { type ClusterView, type GpuBook, nodeOf, noPods, replicaKey, uuidsOf } from './cluster-view.ts';
import { canonical } from './difference.ts';
import { gpuRefusal, hasProduct, matchesSelector, type Need, roomRefusal } from './eligibility.ts';
import { isTerminating, type Model, type Pod } from './kubernetes.ts';
import { type GpuRefusal, type Refusal, refusalOf, refuse } from './refusal.ts';

/** One replica's place. */
export interface Placement {
  replica: number;
  /** The GPUs it is to run on, by index, all of one node; null when there are none for it now. */
  target: GpuBook[] | null;
  /** Why there is no place, or why a wish (to be pinned, to leave a sick GPU) is not granted. */
  refusal: Refusal | null;
  /** Not looked at in this plan: so many others are placed in it that it comes in the next. */
  isDeferred?: boolean;
  /** Whether it is pinned now: what the spec says, once there is room for that. */
  popular: boolean;
}

/** New places found in one plan: a plan must end long before the lease on leadership does. */
export const placementsMax = 32;

interface Ask extends Need {
  model: Model;
  replica: number;
  gpusWanted: number;
}

/** The places of all Models' replicas, by `namespace/name`; the view's books carry the bindings that follow. */
export function placeAll(view: ClusterView): Map<string, Placement[]> {
  const models = view.models.filter((model) => !isTerminating(model));
  const asks = models.flatMap(asksOf);
  // Everything that is bound counts before anything new is weighed, in whichever order Models were made.
  const kept = new Map(asks.map((ask) => [ask, presentTarget(view, ask)]));
  for (const [ask, target] of kept) if (target) bindAll(view, ask, target, wasPopular(ask, target));
  keepBindingsOfPods(view);

  const places = new Map<string, Placement[]>(
    models.map((model) => [`${model.metadata.namespace}/${model.metadata.name}`, []]),
  );
  const put = (ask: Ask, placement: Placement) =>
    places.get(`${ask.model.metadata.namespace}/${ask.model.metadata.name}`)!.push(placement);
  const homeless: Ask[] = [];
  for (const ask of asks) {
    const target = kept.get(ask)!;
    const renewed = target && renew(view, ask, target);
    if (renewed) put(ask, renewed);
    else homeless.push(ask);
  }
  placeHomeless(view, homeless, put);
  for (const list of places.values()) list.sort((left, right) => left.replica - right.replica);
  return places;
}

function asksOf(model: Model): Ask[] {
  const { namespace = '', name } = model.metadata;
  const { spec } = model;
  return Array.from({ length: spec.replicas }, (_, replica) => ({
    model,
    replica,
    key: replicaKey(namespace, name, replica),
    spec,
    popular: spec.fairness.popular,
    gpusWanted: spec.parallelism.tensor * spec.parallelism.pipeline,
  }));
}

/** The place that a replica has and may keep; null when it has none or must leave it. */
function presentTarget(view: ClusterView, ask: Ask): GpuBook[] | null {
  const { live, terminating } = view.podsOf.get(ask.key) ?? noPods;
  const claimed = new Set([...live, ...terminating].flatMap(uuidsOf));
  // Bound, but in no pod: a place whose files are still being fetched, or one that was just left.
  const without = Map.groupBy(
    (view.boundBy.get(ask.key) ?? []).filter(({ uuid }) => !claimed.has(uuid)),
    ({ node }) => node,
  );
  const placeOf = (pod: Pod) => uuidsOf(pod).flatMap((uuid) => view.byUuid.get(uuid) ?? []);
  // The newest pod is the last decision. A move whose pod is not made yet is called off when the old place is good again;
  // a pod that ends draws nothing back to where it was, but one deleted by hand comes back there.
  const candidates = [...live.map(placeOf), ...without.values(), ...terminating.map(placeOf)];
  return candidates.find((books) => mayStay(view, ask, books)) ?? null;
}

/** What makes a replica leave its place: another shape wanted, a sick or vanished GPU, a dead node. */
function mayStay(view: ClusterView, ask: Ask, books: GpuBook[]): boolean {
  return (
    books.length === ask.gpusWanted &&
    new Set(books.map(({ node }) => node)).size === 1 &&
    books.every(
      (book) =>
        book.health !== 'Unhealthy' &&
        !view.deadNodes.has(book.node) &&
        hasProduct(view, book, ask.spec.product) &&
        matchesSelector(view, book.node, ask.spec.nodeSelector),
    )
  );
}

const wasPopular = (ask: Ask, target: GpuBook[]): boolean =>
  target.every((book) => book.bound.get(ask.key)?.popular ?? ask.popular);

function bindAll(view: ClusterView, ask: Ask, target: GpuBook[], popular: boolean): void {
  for (const book of target) {
    const estimate = estimateOrNull(ask.spec, book.totalBytes) ?? book.bound.get(ask.key)?.reservedBytes ?? 0;
    bind(book, {
      namespace: ask.model.metadata.namespace ?? '',
      model: ask.model.metadata.name,
      replica: ask.replica,
      reservedBytes: Math.max(estimate, measuredBytes(view, book, ask.key)),
      popular,
    });
  }
}

/** A pod holds its GPUs until it is gone, also one that is to be replaced, also of a Model that is being deleted. */
function keepBindingsOfPods(view: ClusterView): void {
  for (const [key, { live, terminating }] of view.podsOf) {
    for (const pod of [...live, ...terminating]) {
      for (const uuid of uuidsOf(pod)) {
        const book = view.byUuid.get(uuid);
        if (!book || book.wanted.has(key)) continue;
        const [namespace = '', model = '', replica = '0'] = key.split('/');
        const bound = book.bound.get(key);
        const podBytes = Number(pod.metadata.annotations?.[annotations.vramBytes] ?? 0);
        bind(book, {
          namespace,
          model,
          replica: Number(replica),
          reservedBytes: bound?.reservedBytes ?? (Number.isSafeInteger(podBytes) ? podBytes : 0),
          popular: bound?.popular ?? false,
        });
      }
    }
  }
}

/** Whether the size of each GPU is known: an engine's share is of it, so no pod is made before. */
export const areSized = (target: GpuBook[]): boolean => target.every(({ totalBytes }) => totalBytes !== null);

function sizeRefusal(target: GpuBook[]): Refusal | null {
  if (areSized(target)) return null;
  const unsized = target.filter(({ totalBytes }) => totalBytes === null).map(({ index }) => index);
  const message = `the size of GPU ${unsized.join(',')} on ${target[0]!.node} is not known: no pod is made until its agent tells`;
  return { reason: 'GPUSizeUnknown', message };
}

/** Keeps a place under the spec as it is now; null when the replica no longer fits there. */
function renew(view: ClusterView, ask: Ask, target: GpuBook[]): Placement | null {
  const { replica } = ask;
  const was = wasPopular(ask, target);
  const grows = target.some((book) => {
    const bound = book.bound.get(ask.key);
    const wanted = estimateOrNull(ask.spec, book.totalBytes);
    return bound !== undefined && wanted !== null && wanted > bound.reservedBytes;
  });
  const pins = ask.popular && !was;
  const refusals = (popular: boolean) =>
    target
      .flatMap((book) => roomRefusal(book, { ...ask, popular }) ?? [])
      .filter(({ kind }) => kind !== 'size');
  const firstRefusals = grows || pins ? refusals(ask.popular) : [];
  if (firstRefusals.length === 0) {
    bindAll(view, ask, target, ask.popular);
    return { replica, target, refusal: sizeRefusal(target), popular: ask.popular };
  }
  if (pins && (!grows || refusals(was).length === 0)) {
    // Pinned later, as soon as there is room; it stays as it is until then.
    const { message } = refusalOf(firstRefusals);
    const refusal = { reason: 'NoRoomToPin', message: `popular is not in effect: ${message}` };
    return { replica, target, refusal, popular: was };
  }
  for (const book of target) book.wanted.delete(ask.key);
  keepBindingsOfPods(view);
  return null;
}

/** Finds places in the order of age. What was refused once in this plan is refused to its like: room only shrinks. */
function placeHomeless(
  view: ClusterView,
  homeless: Ask[],
  put: (ask: Ask, placement: Placement) => void,
): void {
  const refused = new Map<string, Placement>();
  let placed = 0;
  for (const ask of homeless) {
    const { spec, popular, gpusWanted, replica, key } = ask;
    const { product, nodeSelector, tolerations, vramPerGPU, gpuMemoryUtilization } = spec;
    // One that is bound somewhere has a refusal of its own: its binding there does not stand in its way.
    const like = view.boundBy.has(key)
      ? key
      : canonical([
          product,
          nodeSelector,
          tolerations,
          vramPerGPU,
          gpuMemoryUtilization,
          popular,
          gpusWanted,
        ]);
    const same = refused.get(like);
    if (same) {
      put(ask, { ...same, replica });
    } else if (placed >= placementsMax) {
      put(ask, { replica, target: null, refusal: null, popular: false, isDeferred: true });
    } else {
      const placement = placeAnew(view, ask);
      if (placement.target) placed += 1;
      else refused.set(like, placement);
      put(ask, placement);
    }
  }
}

interface Candidate {
  books: GpuBook[];
  order: (number | string)[];
}

/** Picks the best GPUs of the best node, binds them, or says why there are none. */
function placeAnew(view: ClusterView, ask: Ask): Placement {
  const refusals: GpuRefusal[] = [];
  const candidates: Candidate[] = [];
  for (const [node, books] of view.byNode) {
    const fitting = books.filter((book) => {
      const refusal = gpuRefusal(view, book, ask);
      if (refusal) refusals.push(refusal);
      return !refusal;
    });
    if (fitting.length >= ask.gpusWanted) candidates.push(candidateOf(view, ask, node, fitting));
    else for (const _ of fitting) refusals.push(refuse.count(fitting.length, ask.gpusWanted));
  }
  const best = candidates.sort((left, right) => compareOrders(left.order, right.order))[0];
  const { replica } = ask;
  if (!best) {
    // Pods that stay where they are keep what they had there.
    const popular =
      ask.popular && (view.boundBy.get(ask.key) ?? []).some(({ bound }) => bound.get(ask.key)?.popular);
    return { replica, target: null, refusal: refusalOf(refusals), popular };
  }
  bindAll(view, ask, best.books, ask.popular);
  return { replica, target: best.books, refusal: null, popular: ask.popular };
}

/**
 * The order of GPUs, and of nodes by their chosen GPUs; the smaller comes first:
 * 1. those bound to this very replica already (a placement that was cut short)
 * 2. those without a sibling replica
 * 3. Healthy before Degraded
 * 4. the least oversubscribed, this replica counted in
 * 5. the fewest bindings
 * 6. nodes with fewer siblings
 * 7. the node's name, then the GPU's index
 */
function candidateOf(view: ClusterView, ask: Ask, node: string, fitting: GpuBook[]): Candidate {
  const prefix = `${ask.model.metadata.namespace}/${ask.model.metadata.name}/`;
  const siblings = (book: GpuBook) =>
    [...book.wanted.keys()].filter((key) => key.startsWith(prefix) && key !== ask.key).length;
  const orderOf = (book: GpuBook): number[] => [
    book.bound.get(ask.key)?.uuid === book.uuid ? 0 : 1,
    siblings(book),
    book.health === 'Healthy' ? 0 : 1,
    (reservedBytes(book) + estimateOrNull(ask.spec, book.totalBytes)!) / book.totalBytes!,
    book.wanted.size,
  ];
  const ranked = fitting
    .map((book) => ({ book, order: [...orderOf(book), book.index] }))
    .sort((left, right) => compareOrders(left.order, right.order))
    .slice(0, ask.gpusWanted);
  // A set is as good as its worst GPU.
  const worst = ranked.at(-1)!.order.slice(0, 5);
  const nodeSiblings = (view.byNode.get(node) ?? []).reduce((sum, book) => sum + siblings(book), 0);
  const books = ranked.map(({ book }) => book).sort((left, right) => left.index - right.index);
  return { books, order: [...worst, nodeSiblings, node] };
}

function compareOrders(left: (number | string)[], right: (number | string)[]): number {
  for (const [position, value] of left.entries()) {
    const other = right[position]!;
    if (value !== other) return value < other ? -1 : 1;
  }
  return 0;
}

/** The node of a replica's place or, failing that, of its newest pod. */
export const nodeOfReplica = (view: ClusterView, key: string, placement: Placement | undefined) =>
  placement?.target?.[0]?.node ??
  (view.podsOf.get(key) ?? noPods).live
    .map((pod) => nodeOf(pod, view.byUuid))
    .find((node) => node !== null) ??
  null;
