/** Kubernetes objects that this cluster has from its start: what a real one would have been given by its operator. */
import type { KubernetesClient, KubernetesObject } from '#platform/kubernetes/client.ts';

export const fieldManager = 'greenthread-dev-cluster';
export const ingressClass = 'greenthread-dev';

const edgeName = 'greenthread-dev-edge';
const rbac = 'rbac.authorization.k8s.io';

const readable = (apiGroups: string[], resources: string[]) => ({
  apiGroups,
  resources,
  verbs: ['get', 'list', 'watch'],
});

/** Each with the path it is applied to. */
export const objects: [path: string, object: KubernetesObject][] = [
  [
    '/apis/node.k8s.io/v1/runtimeclasses/nvidia',
    { apiVersion: 'node.k8s.io/v1', kind: 'RuntimeClass', metadata: { name: 'nvidia' }, handler: 'nvidia' },
  ],
  [
    `/apis/networking.k8s.io/v1/ingressclasses/${ingressClass}`,
    {
      apiVersion: 'networking.k8s.io/v1',
      kind: 'IngressClass',
      metadata: {
        name: ingressClass,
        annotations: { 'ingressclass.kubernetes.io/is-default-class': 'true' },
      },
      spec: { controller: 'greenthread.ai/dev-edge' },
    },
  ],
  [
    `/apis/${rbac}/v1/clusterroles/${edgeName}`,
    {
      apiVersion: `${rbac}/v1`,
      kind: 'ClusterRole',
      metadata: { name: edgeName },
      rules: [
        readable([''], ['services']),
        readable(['networking.k8s.io'], ['ingresses', 'ingressclasses']),
        { apiGroups: ['networking.k8s.io'], resources: ['ingresses/status'], verbs: ['patch'] },
      ],
    },
  ],
  [
    `/apis/${rbac}/v1/clusterrolebindings/${edgeName}`,
    {
      apiVersion: `${rbac}/v1`,
      kind: 'ClusterRoleBinding',
      metadata: { name: edgeName },
      roleRef: { apiGroup: rbac, kind: 'ClusterRole', name: edgeName },
      subjects: [{ apiGroup: rbac, kind: 'User', name: edgeName }],
    },
  ],
];

export async function applyObjects(client: KubernetesClient): Promise<void> {
  for (const [path, object] of objects) await client.apply(path, object, { fieldManager });
}
