/** The way in from the cluster's edge: an Ingress or an HTTPRoute for each Model. */
import { serviceName } from '#proto/names.ts';
import { stamped } from '../difference.ts';
import { type Model, ownerOf } from '../kubernetes.ts';
import type { RouteSettings } from '../settings.ts';
import { modelLabels } from './modelservice.ts';

const metadataOf = (model: Model, annotations: Record<string, string>) => ({
  name: serviceName(model.metadata.name),
  namespace: model.metadata.namespace ?? '',
  labels: modelLabels(model),
  annotations,
  ownerReferences: [ownerOf(model)],
});

/** @param paths path prefixes, such as `/llama-3-8b`; the front door answers under them, nothing is rewritten */
export function modelIngress(
  model: Model,
  paths: readonly string[],
  route: Extract<RouteSettings, { kind: 'ingress' }>,
) {
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

export function modelHttpRoute(
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
