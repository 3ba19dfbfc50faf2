/** GPU.spec.bindings: the desired state that reaches the node. One apply for each GPU whose list differs. */
import { apiVersion } from '#api/crd.ts';
import { paths } from './api-paths.ts';
import type { ClusterView, GpuBook } from './cluster-view.ts';
import { isSame } from './difference.ts';
import type { Effect } from './effects.ts';

const sorted = <T>(bindings: ReadonlyMap<string, T>): T[] =>
  [...bindings].sort(([left], [right]) => (left < right ? -1 : 1)).map(([, binding]) => binding);

function bindingEffect(book: GpuBook): Effect {
  return {
    type: 'apply',
    kind: 'gpus',
    path: paths.gpu(book.name),
    // With the uid, so that an apply never makes a GPU: that is the agent's to do.
    object: {
      apiVersion,
      kind: 'GPU',
      metadata: { name: book.name, uid: book.object.metadata.uid },
      spec: { bindings: sorted(book.wanted) },
    },
    because: `bindings: ${[...book.wanted.keys()].sort().join(', ') || 'none'}`,
  };
}

const isBoundAsWanted = ({ bound, wanted }: GpuBook): boolean =>
  bound.size === wanted.size && [...wanted].every(([key, binding]) => isSame(bound.get(key), binding));

/** Applies the bindings that phases have put into the books. */
export const bindingEffects = (view: ClusterView): Effect[] =>
  view.books.filter((book) => !isBoundAsWanted(book)).map(bindingEffect);
