/**
 * The way to a Model: its Service, and an Ingress or HTTPRoute with the paths `/<name>` and `/<namespace>/<name>`. Where
 * Models of two namespaces have one name, the older keeps `/<name>`.
 */
import { serviceName } from '#proto/names.ts';
import { paths } from './api-paths.ts';
import type { ClusterView } from './cluster-view.ts';
import { coversStill } from './difference.ts';
import type { Effect } from './effects.ts';
import { isTerminating, type Model } from './kubernetes.ts';
import { modelRoute } from './manifests/model-route.ts';
import { modelService } from './manifests/model-service.ts';

/** Who keeps `/<name>`, by name. */
export function nameOwners(view: ClusterView): Map<string, Model> {
  const owners = new Map<string, Model>();
  for (const model of view.models) {
    if (!isTerminating(model) && !owners.has(model.metadata.name)) owners.set(model.metadata.name, model);
  }
  return owners;
}

export interface Routing {
  /** The namespace that keeps `/<name>`; null when this Model does. */
  lostTo: string | null;
  /** null while the edge's address is not known. */
  url: string | null;
  effects: Effect[];
}

const pathFor = (view: ClusterView, namespace: string, name: string): string | null => {
  const { kind } = view.settings.route;
  if (kind === 'none') return null;
  return kind === 'ingress' ? paths.ingress(namespace, name) : paths.httpRoute(namespace, name);
};

/** Service and route of a Model as they are to be, and its address. */
export function routingOf(view: ClusterView, owners: ReadonlyMap<string, Model>, model: Model): Routing {
  const { namespace = '', name } = model.metadata;
  const owner = owners.get(name);
  const lostTo = owner && owner !== model ? (owner.metadata.namespace ?? '') : null;
  const prefixes = [...(lostTo === null ? [`/${name}`] : []), `/${namespace}/${name}`];
  const { route } = view.settings;
  const key = `${namespace}/${serviceName(name)}`;
  const effects: Effect[] = [];

  const service = modelService(model);
  const foundService = view.snapshot.services.get(key);
  if (!coversStill(foundService, service)) {
    effects.push({
      type: 'apply',
      kind: 'services',
      path: paths.service(namespace, serviceName(name)),
      object: service,
      because: `Service of ${namespace}/${name}`,
    });
  }
  const wanted = modelRoute(route, model, prefixes);
  if (wanted && !coversStill(view.snapshot.routes.get(key), wanted)) {
    effects.push({
      type: 'apply',
      kind: 'routes',
      path: pathFor(view, namespace, serviceName(name))!,
      object: wanted,
      because: `route ${prefixes.join(', ')}`,
    });
  }
  return { lostTo, url: urlOf(view, namespace, name, prefixes[0]!), effects };
}

function urlOf(view: ClusterView, namespace: string, name: string, prefix: string): string | null {
  const { route } = view.settings;
  if (route.kind === 'none') return `http://${serviceName(name)}.${namespace}.svc`;
  const edge = view.snapshot.routes.get(`${namespace}/${serviceName(name)}`)?.status?.loadBalancer
    ?.ingress?.[0];
  const host = route.host || edge?.hostname || edge?.ip;
  if (!host) return null;
  const written = host.includes(':') && !host.startsWith('[') ? `[${host}]` : host;
  return `${route.scheme}://${written}${prefix}`;
}

/** Takes route and Service away, the route first; done when it answers with nothing. */
export function unroute(view: ClusterView, model: Model): Effect[] {
  const { namespace = '', name } = model.metadata;
  const key = `${namespace}/${serviceName(name)}`;
  const because = `${namespace}/${name} is deleted`;
  const effects: Effect[] = [];
  const route = view.snapshot.routes.get(key);
  const routePath = pathFor(view, namespace, serviceName(name));
  if (route && routePath) {
    effects.push({ type: 'delete', kind: 'routes', path: routePath, uid: route.metadata.uid ?? '', because });
  }
  const service = view.snapshot.services.get(key);
  if (service) {
    const path = paths.service(namespace, serviceName(name));
    effects.push({ type: 'delete', kind: 'services', path, uid: service.metadata.uid ?? '', because });
  }
  return effects;
}
