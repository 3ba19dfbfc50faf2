/** Paths of the objects this controller touches. */
import { apiVersion } from '#api/crd.ts';

const own = `/apis/${apiVersion}`;

export const paths = {
  model: (namespace: string, name: string) => `${own}/namespaces/${namespace}/models/${name}`,
  gpu: (name: string) => `${own}/gpus/${name}`,
  pods: (namespace: string) => `/api/v1/namespaces/${namespace}/pods`,
  pod: (namespace: string, name: string) => `/api/v1/namespaces/${namespace}/pods/${name}`,
  jobs: (namespace: string) => `/apis/batch/v1/namespaces/${namespace}/jobs`,
  job: (namespace: string, name: string) => `/apis/batch/v1/namespaces/${namespace}/jobs/${name}`,
  service: (namespace: string, name: string) => `/api/v1/namespaces/${namespace}/services/${name}`,
  ingress: (namespace: string, name: string) =>
    `/apis/networking.k8s.io/v1/namespaces/${namespace}/ingresses/${name}`,
  httpRoute: (namespace: string, name: string) =>
    `/apis/gateway.networking.k8s.io/v1/namespaces/${namespace}/httproutes/${name}`,
} as const;
