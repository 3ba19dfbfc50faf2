/** What the controller watches, each as events for the loop. */
import { apiVersion } from '#api/crd.ts';
import type { KubernetesClient, KubernetesObject, Selectors } from '#platform/kubernetes/client.ts';
import { type Watch, watch } from '#platform/kubernetes/watch.ts';
import type { Log } from '#platform/log.ts';
import { labels } from '#proto/names.ts';
import { type ControllerSettings, components, partOf } from '../decide/settings.ts';
import type { WatchedKind } from '../decide/snapshot.ts';
import type { ControllerEvent } from '../decide/step.ts';

const routePaths = {
  ingress: '/apis/networking.k8s.io/v1/ingresses',
  gateway: '/apis/gateway.networking.k8s.io/v1/httproutes',
} as const;

/** Path and selectors of each list; null for one that this cluster's settings leave out. */
export function watchedLists(
  settings: ControllerSettings,
): Record<WatchedKind, { path: string; selectors: Selectors } | null> {
  const { namespace, route, progress } = settings;
  const ofModels = { labelSelector: labels.model };
  const own = `${labels.partOf}=${partOf},${labels.component} in (${components.agent},${components.fetch})`;
  return {
    models: { path: `/apis/${apiVersion}/models`, selectors: {} },
    gpus: { path: `/apis/${apiVersion}/gpus`, selectors: {} },
    nodes: { path: '/api/v1/nodes', selectors: {} },
    pods: {
      path: '/api/v1/pods',
      selectors: { labelSelector: `${labels.model},${labels.component}=${components.model}` },
    },
    ownPods: { path: `/api/v1/namespaces/${namespace}/pods`, selectors: { labelSelector: own } },
    jobs: { path: `/apis/batch/v1/namespaces/${namespace}/jobs`, selectors: ofModels },
    services: { path: '/api/v1/services', selectors: ofModels },
    routes: route.kind === 'none' ? null : { path: routePaths[route.kind], selectors: ofModels },
    progress: progress && {
      path: `/api/v1/namespaces/${namespace}/configmaps`,
      selectors: { fieldSelector: `metadata.name=${progress.configMap}` },
    },
  };
}

export interface Watches {
  /** Kind and seconds since it was last heard, for those that were heard at all. */
  ages(): [string, number][];
  stop(): void;
}

/** Starts all watches. */
export function watchCluster(
  client: KubernetesClient,
  settings: ControllerSettings,
  on: (event: ControllerEvent) => void,
  log: Log,
): Watches {
  const started: [WatchedKind, Watch][] = [];
  for (const [name, list] of Object.entries(watchedLists(settings))) {
    const kind = name as WatchedKind;
    if (!list) {
      on({ type: 'synced', kind, objects: [] });
      continue;
    }
    const handler = (
      event:
        | { type: 'synced'; items: KubernetesObject[] }
        | { type: 'put' | 'gone'; object: KubernetesObject },
    ) =>
      on(
        event.type === 'synced'
          ? { type: 'synced', kind, objects: event.items }
          : { type: event.type, kind, object: event.object },
      );
    started.push([kind, watch<KubernetesObject>(client, list.path, list.selectors, handler, log)]);
  }
  return {
    ages: () =>
      started.flatMap(([kind, { ageMs }]) => {
        const age = ageMs();
        return age === null ? [] : [[kind, age / 1000] as [string, number]];
      }),
    stop: () => {
      for (const [, each] of started) each.stop();
    },
  };
}
