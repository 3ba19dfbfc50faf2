/** Ingresses and Services in, nginx's configuration out. Pure: the same objects give the same text. */
import type { KubernetesObject } from '#platform/kubernetes/client.ts';

export const ingressClass = 'greenthread-dev';
export const defaultClassAnnotation = 'ingressclass.kubernetes.io/is-default-class';

interface Backend {
  service?: { name: string; port?: { number?: number; name?: string } };
}

export interface Ingress extends KubernetesObject {
  spec: {
    ingressClassName?: string;
    defaultBackend?: Backend;
    rules?: {
      host?: string;
      http?: {
        paths: { path?: string; pathType: 'Exact' | 'Prefix' | 'ImplementationSpecific'; backend: Backend }[];
      };
    }[];
  };
  status?: { loadBalancer?: { ingress?: { ip?: string; hostname?: string }[] } };
}

export interface Service extends KubernetesObject {
  spec: { clusterIP?: string; ports?: { name?: string; port: number }[] };
}

export interface EdgeState {
  ingresses: Ingress[];
  services: Service[];
  /** Whether Ingresses without a class are ours. */
  isDefaultClass: boolean;
}

export interface EdgeConfiguration {
  /** nginx server blocks. */
  servers: string;
  /** Ingresses that are served, whole or in part. */
  served: Ingress[];
  /** Why a rule or path is not as somebody wished. */
  warnings: string[];
}

/** Characters of a path or host that mean nothing to nginx's configuration language. */
const plainPath = /^\/[A-Za-z0-9._~%@:+,=&!*()/-]*$/;
const plainHost = /^(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/;

interface Location {
  path: string;
  exact: boolean;
  /** `http://ADDRESS:PORT`, or null: nobody to ask, 503. */
  upstream: string | null;
}

/** A collection of objects keeps no order: the oldest Ingress wins a path, names decide between equals. */
function byAge(a: Ingress, b: Ingress): number {
  const key = ({ metadata }: Ingress) =>
    `${metadata.creationTimestamp ?? ''} ${metadata.namespace}/${metadata.name}`;
  return key(a) < key(b) ? -1 : 1;
}

function resolve(backend: Backend, namespace: string | undefined, services: Service[]): string | null {
  const wanted = backend.service;
  if (!wanted) return null;
  const service = services.find(
    ({ metadata }) => metadata.name === wanted.name && metadata.namespace === namespace,
  );
  const address = service?.spec.clusterIP;
  if (!address || address === 'None') return null;
  const { number, name } = wanted.port ?? {};
  const port = number ?? service.spec.ports?.find((each) => each.name === name)?.port;
  return port ? `http://${address.includes(':') ? `[${address}]` : address}:${port}` : null;
}

/** Prefix `/a` is `/a` and all under `/a/`, by whole segments; `/` is everything. */
function locationText({ path, exact, upstream }: Location): string[] {
  const body = upstream ? `{ proxy_pass ${upstream}; }` : '{ return 503; }';
  if (exact) return [`    location = ${path} ${body}`];
  const folder = path.endsWith('/') ? path : `${path}/`;
  const whole = path !== '/' && !path.endsWith('/') ? [`    location = ${path} ${body}`] : [];
  return [...whole, `    location ^~ ${folder} ${body}`];
}

/** nginx refuses a location twice: what an earlier line of the same server says stands. */
function serverText(host: string, locations: Location[], address: string): string {
  const lines = new Map<string, string>();
  // An exact path beats a prefix of the same name.
  for (const location of [...locations].sort((a, b) => Number(b.exact) - Number(a.exact))) {
    for (const line of locationText(location)) {
      const key = line.slice(0, line.indexOf('{'));
      if (!lines.has(key)) lines.set(key, line);
    }
  }
  const listen = host === '' ? `${address}:80 default_server` : `${address}:80`;
  const fallback = lines.has('    location ^~ / ') ? [] : ['    location / { return 404; }'];
  return [
    '  server {',
    `    listen ${listen};`,
    `    server_name ${host === '' ? '_' : host};`,
    ...lines.values(),
    ...fallback,
    '  }',
  ].join('\n');
}

/** What the edge serves for these objects. */
export function configure(state: EdgeState, address: string): EdgeConfiguration {
  const warnings: string[] = [];
  const ours = state.ingresses
    .filter(({ spec }) =>
      spec.ingressClassName ? spec.ingressClassName === ingressClass : state.isDefaultClass,
    )
    .sort(byAge);
  const hosts = new Map<string, Location[]>([['', []]]);
  const add = (host: string, location: Location) => hosts.set(host, [...(hosts.get(host) ?? []), location]);
  for (const ingress of ours) {
    const { name, namespace } = ingress.metadata;
    const upstreamOf = (backend: Backend, at: string) => {
      const upstream = resolve(backend, namespace, state.services);
      if (!upstream)
        warnings.push(`${namespace}/${name} ${at}: no Service ${backend.service?.name} with such a port`);
      return upstream;
    };
    if (ingress.spec.defaultBackend) {
      add('', {
        path: '/',
        exact: false,
        upstream: upstreamOf(ingress.spec.defaultBackend, 'defaultBackend'),
      });
    }
    for (const rule of ingress.spec.rules ?? []) {
      const host = rule.host ?? '';
      for (const { path = '/', pathType, backend } of rule.http?.paths ?? []) {
        if (!plainPath.test(path) || (host !== '' && !plainHost.test(host))) {
          warnings.push(
            `${namespace}/${name}: host ${JSON.stringify(host)} path ${JSON.stringify(path)} is not served`,
          );
          continue;
        }
        add(host, { path, exact: pathType === 'Exact', upstream: upstreamOf(backend, path) });
      }
    }
  }
  const servers = [...hosts]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([host, list]) => serverText(host, list, address));
  return { servers: servers.join('\n'), served: ours, warnings };
}

/**
 * The whole nginx.conf. Bytes pass as they come, both ways, for as long as a model thinks; nothing is asked twice.
 *
 * @param folder nginx's own, for its pid and whatever it must put down
 */
export function nginxText(servers: string, folder: string): string {
  return `# Written by the edge; changes are lost.
daemon off;
user nobody nogroup;
worker_processes 1;
pid ${folder}/nginx.pid;
error_log stderr warn;
worker_shutdown_timeout 10m;
events { worker_connections 4096; }
http {
  access_log off;
  default_type application/octet-stream;
  server_tokens off;
  merge_slashes off;
  underscores_in_headers on;
  large_client_header_buffers 8 64k;
  client_max_body_size 0;
  client_body_timeout 1h;
  client_body_temp_path ${folder}/body;
  proxy_temp_path ${folder}/proxy;
  fastcgi_temp_path ${folder}/fastcgi;
  uwsgi_temp_path ${folder}/uwsgi;
  scgi_temp_path ${folder}/scgi;
  send_timeout 1h;
  keepalive_timeout 75s;
  proxy_http_version 1.1;
  proxy_buffering off;
  proxy_request_buffering off;
  proxy_max_temp_file_size 0;
  proxy_next_upstream off;
  proxy_connect_timeout 5s;
  proxy_read_timeout 1h;
  proxy_send_timeout 1h;
  proxy_set_header Host $http_host;
  proxy_set_header Connection "";
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  proxy_set_header X-Forwarded-Proto $scheme;
${servers}
}
`;
}
