/** All objects of one kind that belong to this node, told whole on every change; changes in one turn are told once. */
import type { KubernetesClient, KubernetesObject, Selectors } from '#platform/kubernetes/client.ts';
import { type Watch, watch } from '#platform/kubernetes/watch.ts';
import type { Log } from '#platform/log.ts';
import { apiVersion, labels } from '#proto/names.ts';

/** What the agent watches. GPUs have no namespace, and a selectable field of their own. */
export const nodePods = (node: string) => ({
  path: '/api/v1/pods',
  selectors: { fieldSelector: `spec.nodeName=${node}`, labelSelector: labels.model },
});
export const nodeGpus = (node: string) => ({
  path: `/apis/${apiVersion}/gpus`,
  selectors: { fieldSelector: `spec.nodeName=${node}` },
});

/** A log that says the same warning of an API server that stays away once, until something was heard again. */
function once(log: Log): { log: Log; heard(): void } {
  let last = '';
  return {
    heard() {
      last = '';
    },
    log: {
      ...log,
      warn(message, fields) {
        const text = `${message} ${fields?.error}`;
        if (text !== last) log.warn(message, fields);
        last = text;
      },
    },
  };
}

/**
 * @param tell all there are, first when the API server has listed them; while it is away nothing is told
 */
export function watchNodeObjects<T extends KubernetesObject>(
  client: KubernetesClient,
  what: { path: string; selectors: Selectors },
  tell: (objects: T[]) => void,
  log: Log,
): Watch {
  const objects = new Map<string, T>();
  let planned = false;
  const quiet = once(log);
  const key = ({ metadata }: KubernetesObject): string => metadata.uid ?? metadata.name;

  const changed = (): void => {
    if (planned) return;
    planned = true;
    setImmediate(() => {
      planned = false;
      tell([...objects.values()]);
    });
  };

  return watch<T>(
    client,
    what.path,
    what.selectors,
    (event) => {
      quiet.heard();
      if (event.type === 'synced') {
        objects.clear();
        for (const object of event.items) objects.set(key(object), object);
      } else if (event.type === 'put') objects.set(key(event.object), event.object);
      else objects.delete(key(event.object));
      changed();
    },
    quiet.log,
  );
}
