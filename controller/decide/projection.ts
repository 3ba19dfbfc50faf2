/** What of an object is kept in memory: 5,000 pods in full would be most of a controller's heap. */
import type { KubernetesObject } from '#platform/kubernetes/client.ts';
import type { Job, Node, Pod } from './kubernetes.ts';
import type { WatchedKind } from './snapshot.ts';

/** The last annotation of `kubectl apply` repeats the whole object. */
const heavyAnnotation = 'kubectl.kubernetes.io/last-applied-configuration';

const isOnNode = ({ hostPath }: { hostPath?: unknown }): boolean => hostPath !== undefined;

function light(metadata: KubernetesObject['metadata']): KubernetesObject['metadata'] {
  const { managedFields: _, ...rest } = metadata as KubernetesObject['metadata'] & {
    managedFields?: unknown;
  };
  if (!rest.annotations?.[heavyAnnotation]) return rest;
  const { [heavyAnnotation]: _repeated, ...annotations } = rest.annotations;
  return { ...rest, annotations };
}

/** The object without what no decision reads. */
export function projected(kind: WatchedKind, object: KubernetesObject): KubernetesObject {
  const metadata = light(object.metadata);
  const { apiVersion, kind: objectKind } = object;
  switch (kind) {
    case 'nodes': {
      const { spec, status } = object as Node;
      return {
        apiVersion,
        kind: objectKind,
        metadata,
        spec: { taints: spec?.taints, unschedulable: spec?.unschedulable },
        status: { conditions: status?.conditions?.filter(({ type }) => type === 'Ready') },
      };
    }
    case 'pods':
    case 'ownPods': {
      const { spec, status } = object as Pod;
      return { apiVersion, kind: objectKind, metadata, spec: { nodeName: spec?.nodeName }, status };
    }
    case 'jobs': {
      const volumes = (object as Job).spec?.template?.spec?.volumes?.filter(isOnNode) ?? [];
      const spec = { template: { spec: { volumes } } };
      return { apiVersion, kind: objectKind, metadata, spec, status: object.status };
    }
    case 'models':
    case 'progress':
    case 'gpus':
    case 'services':
    case 'routes':
      return { ...object, metadata };
  }
}
