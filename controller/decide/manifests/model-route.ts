/** The way in from the cluster's edge: an Ingress or an HTTPRoute for each Model. */
import { serviceName } from '#proto/names.ts';
import { stamped } from '../difference.ts';
import { type Model, ownerOf } from '../kubernetes.ts';
import { rememberedBy } from '../remembered.ts';
import type { RouteSettings } from '../settings.ts';
import { modelLabels } from './model-service.ts';

const metadataOf = (model: Model, annotations: Record<string, string>) => ({
  name: serviceName(model.metadata.name),
  namespace: model.metadata.namespace ?? '',
  labels: modelLabels(model),
  annotations,
  ownerReferences: [ownerOf(model)],
});

function ingress(model: Model, paths: readonly string[], route: Extract<RouteSettings, { kind: 'ingress' }>) {
  const backend = { service: { name: serviceName(model.metadata.name), port: { number: 80 } } };
  return stamped({
    apiVersion: 'networking.k8s.io/v1',
    kind: 'Ingress',
    metadata: metadataOf(model, route.annotations),
    spec: {
      ...(route.className !== '' && { ingressClassName: route.className }),
      rules: [
        {
          ...(route.host !== '' && { host: route.host }),
          http: { paths: paths.map((path) => ({ path, pathType: 'Prefix', backend })) },
        },
      ],
    },
  });
}

function httpRoute(
  model: Model,
  paths: readonly string[],
  route: Extract<RouteSettings, { kind: 'gateway' }>,
) {
  return stamped({
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'HTTPRoute',
    metadata: metadataOf(model, {}),
    spec: {
      parentRefs: [
        {
          name: route.name,
          ...(route.namespace !== '' && { namespace: route.namespace }),
          ...(route.sectionName !== '' && { sectionName: route.sectionName }),
        },
      ],
      ...(route.host !== '' && { hostnames: [route.host] }),
      rules: [
        {
          matches: paths.map((value) => ({ path: { type: 'PathPrefix', value } })),
          backendRefs: [{ name: serviceName(model.metadata.name), port: 80 }],
        },
      ],
    },
  });
}

/** Settings live as long as the process; the routes made by them are kept by Model and paths. */
const routesBy = rememberedBy((route: RouteSettings) =>
  rememberedBy((model: Model, joined) => {
    const paths = joined.split(',');
    switch (route.kind) {
      case 'ingress':
        return ingress(model, paths, route);
      case 'gateway':
        return httpRoute(model, paths, route);
      case 'none':
        return null;
    }
  }),
);

/**
 * @param paths path prefixes, such as `/llama-3-8b`; the front door answers under them, nothing is rewritten
 * @returns null when routes are left to somebody else
 */
export const modelRoute = (route: RouteSettings, model: Model, paths: readonly string[]) =>
  routesBy(route, '')(model, paths.join(','));
