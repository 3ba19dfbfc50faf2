import { describe, expect, it } from 'vitest';
import { configure, type Ingress, nginxText, type Service } from '../../../hack/edge/configuration.ts';

const service = (name: string, clusterIP = '10.96.0.9', namespace = 'default'): Service => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name, namespace },
  spec: { clusterIP, ports: [{ name: 'http', port: 80 }] },
});

interface Path {
  path?: string;
  pathType?: 'Exact' | 'Prefix' | 'ImplementationSpecific';
  service?: string;
  port?: { number?: number; name?: string };
}

function ingress(
  name: string,
  paths: Path[],
  more: Partial<Ingress['spec']> & { host?: string; created?: string } = {},
): Ingress {
  const { host, created = '2026-01-01T00:00:00Z', ...spec } = more;
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'Ingress',
    metadata: { name, namespace: 'default', creationTimestamp: created },
    spec: {
      ingressClassName: 'greenthread-dev',
      rules: [
        {
          ...(host && { host }),
          http: {
            paths: paths.map(
              ({ service: backend = 'gt-a', port = { number: 80 }, pathType = 'Prefix', ...rest }) => ({
                ...rest,
                pathType,
                backend: { service: { name: backend, port } },
              }),
            ),
          },
        },
      ],
      ...spec,
    },
  };
}

const serve = (ingresses: Ingress[], services = [service('gt-a')], isDefaultClass = true) =>
  configure({ ingresses, services, isDefaultClass }, '10.77.0.11');
/** Location lines, without their indentation. */
const locations = (text: string) =>
  text.split('\n').flatMap((line) => /^ +(location .*)$/.exec(line)?.[1] ?? []);

describe('the edge', () => {
  it('answers 404 for every path while there is no Ingress, at its own address alone', () => {
    const { servers } = serve([]);
    expect(locations(servers)).toEqual(['location / { return 404; }']);
    expect(servers.match(/listen .*/g)).toEqual(['listen 10.77.0.11:80 default_server;']);
  });

  it('serves a prefix by whole segments', () => {
    expect(locations(serve([ingress('a', [{ path: '/llama' }])]).servers)).toEqual([
      'location = /llama { proxy_pass http://10.96.0.9:80; }',
      'location ^~ /llama/ { proxy_pass http://10.96.0.9:80; }',
      'location / { return 404; }',
    ]);
  });

  it('serves an exact path, a whole tree and a port by name', () => {
    const paths: Path[] = [{ path: '/x', pathType: 'Exact', port: { name: 'http' } }, { path: '/' }];
    expect(locations(serve([ingress('a', paths)]).servers)).toEqual([
      'location = /x { proxy_pass http://10.96.0.9:80; }',
      'location ^~ / { proxy_pass http://10.96.0.9:80; }',
    ]);
  });

  it('gives a path that two Ingresses claim to the older one, whatever their order', () => {
    const older = ingress('z', [{ path: '/m', service: 'old' }], { created: '2026-01-01T00:00:00Z' });
    const newer = ingress('a', [{ path: '/m', service: 'new' }], { created: '2026-01-02T00:00:00Z' });
    const services = [service('old', '10.96.0.1'), service('new', '10.96.0.2')];
    for (const order of [
      [older, newer],
      [newer, older],
    ]) {
      const lines = locations(serve(order, services).servers);
      expect(lines.filter((line) => line.includes('/m'))).toEqual([
        'location = /m { proxy_pass http://10.96.0.1:80; }',
        'location ^~ /m/ { proxy_pass http://10.96.0.1:80; }',
      ]);
    }
  });

  it('keeps hosts apart', () => {
    const { servers } = serve([ingress('a', [{ path: '/m' }], { host: 'models.example' })]);
    expect(servers.match(/server_name .*/g)).toEqual(['server_name _;', 'server_name models.example;']);
    expect(locations(servers)[0]).toBe('location / { return 404; }');
  });

  it.each<[string, Ingress, Service[]]>([
    ['there is no such Service', ingress('a', [{ path: '/m', service: 'gone' }]), [service('gt-a')]],
    [
      'the Service is in another namespace',
      ingress('a', [{ path: '/m' }]),
      [service('gt-a', '10.96.0.9', 'other')],
    ],
    ['the Service is headless', ingress('a', [{ path: '/m' }]), [service('gt-a', 'None')]],
    [
      'the Service has no port of that name',
      ingress('a', [{ path: '/m', port: { name: 'grpc' } }]),
      [service('gt-a')],
    ],
  ])('answers 503 and says why when %s', (_, object, services) => {
    const { servers, warnings } = serve([object], services);
    expect(locations(servers)[0]).toBe('location = /m { return 503; }');
    expect(warnings).toEqual([expect.stringMatching(/^default\/a \/m: no Service/)]);
  });

  it.each(['/a; }', '/a b', '/$uri', '/{a}', '/"', 'a', '/a\nb'])(
    'does not let %j into its configuration',
    (path) => {
      const { servers, warnings } = serve([ingress('a', [{ path }])]);
      expect(locations(servers)).toEqual(['location / { return 404; }']);
      expect(warnings).toHaveLength(1);
    },
  );

  it.each(['*', 'a_b', '-a', 'a; }', 'A.example'])(
    'does not let the host %j into its configuration',
    (host) => {
      expect(serve([ingress('a', [{ path: '/m' }], { host })]).warnings).toHaveLength(1);
    },
  );

  it.each<[string, Partial<Ingress['spec']>, boolean, number]>([
    ['of its class', {}, false, 1],
    ['of another class', { ingressClassName: 'nginx' }, true, 0],
    ['without a class when its own is the default', { ingressClassName: '' }, true, 1],
    ['without a class when another is the default', { ingressClassName: '' }, false, 0],
  ])('takes Ingresses %s', (_, spec, isDefaultClass, count) => {
    expect(
      serve([ingress('a', [{ path: '/m' }], spec)], [service('gt-a')], isDefaultClass).served,
    ).toHaveLength(count);
  });

  it('buffers nothing, limits no body and asks nobody twice', () => {
    const text = nginxText('', '/run/edge');
    for (const directive of [
      'proxy_buffering off',
      'proxy_request_buffering off',
      'client_max_body_size 0',
      'proxy_next_upstream off',
      'proxy_http_version 1.1',
    ]) {
      expect(text).toContain(`${directive};`);
    }
  });
});
