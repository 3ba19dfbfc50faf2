/**
 * The edge of the development cluster: an Ingress controller that is Debian's nginx and this watcher.
 *
 *   node hack/edge/main.ts --kubeconfig FILE --address 10.77.0.11 --folder /run/edge
 */
import { parseArgs } from 'node:util';
import type { KubernetesClient, KubernetesObject } from '#platform/kubernetes/client.ts';
import { connect } from '#platform/kubernetes/connect.ts';
import { watch } from '#platform/kubernetes/watch.ts';
import { createLog, errorText } from '#platform/log.ts';
import {
  configure,
  defaultClassAnnotation,
  type Ingress,
  ingressClass,
  nginxText,
  type Service,
} from './configuration.ts';
import { serveNames } from './names.ts';
import { startNginx } from './nginx.ts';

/** Changes that come together make one reload, ms. */
const gatherMs = 50;
/** A status that could not be written is tried again after this, ms. */
const retryMs = 2_000;

const { values } = parseArgs({
  options: {
    kubeconfig: { type: 'string' },
    address: { type: 'string' },
    folder: { type: 'string', default: '/run/edge' },
  },
});
const address = values.address;
if (!address) {
  console.error('usage: node hack/edge/main.ts --kubeconfig FILE --address ADDRESS [--folder FOLDER]');
  process.exit(2);
}

const log = createLog('edge');
const key = ({ metadata }: KubernetesObject) => `${metadata.namespace ?? ''}/${metadata.name}`;

/** What a watch has shown; null until its first list. */
function collect<T extends KubernetesObject>(client: KubernetesClient, path: string, changed: () => void) {
  let objects: Map<string, T> | null = null;
  watch<T>(
    client,
    path,
    {},
    (event) => {
      if (event.type === 'synced') objects = new Map(event.items.map((item) => [key(item), item]));
      else if (event.type === 'put') objects?.set(key(event.object), event.object);
      else objects?.delete(key(event.object));
      changed();
    },
    log,
  );
  return () => (objects ? [...objects.values()] : null);
}

async function main(edgeAddress: string): Promise<void> {
  const client = await connect({ kubeconfig: values.kubeconfig });
  const nginx = await startNginx(
    values.folder,
    nginxText(
      configure({ ingresses: [], services: [], isDefaultClass: false }, edgeAddress).servers,
      values.folder,
    ),
    (code) => {
      log.error('nginx ended', { code });
      process.exit(1);
    },
  );
  let planned = false;
  const changed = (afterMs = gatherMs) => {
    if (planned) return;
    planned = true;
    setTimeout(() => {
      planned = false;
      settle().catch((error: unknown) => {
        log.warn('not settled, trying again', { error: errorText(error) });
        changed(retryMs);
      });
    }, afterMs);
  };
  const networking = '/apis/networking.k8s.io/v1';
  const ingresses = collect<Ingress>(client, `${networking}/ingresses`, changed);
  const classes = collect<KubernetesObject>(client, `${networking}/ingressclasses`, changed);
  const services = collect<Service>(client, '/api/v1/services', changed);
  const addressOf = (service: string) => {
    const address = services()?.find((each) => key(each) === service)?.spec.clusterIP;
    return address && /^[0-9.]+$/.test(address) ? address : null;
  };
  serveNames(edgeAddress, addressOf, (error) => {
    log.error('cannot answer names', { error: error.message });
    process.exit(1);
  });
  let warned = '';

  /** One pass at a time: nginx first, then the address in each status that lacks it. */
  let passes = Promise.resolve();
  const settle = () => {
    passes = passes.catch(() => undefined).then(pass);
    return passes;
  };
  async function pass(): Promise<void> {
    const [allIngresses, allClasses, allServices] = [ingresses(), classes(), services()];
    if (!allIngresses || !allClasses || !allServices) return;
    const own = allClasses.find(({ metadata }) => metadata.name === ingressClass);
    const isDefaultClass = own?.metadata.annotations?.[defaultClassAnnotation] === 'true';
    const state = { ingresses: allIngresses, services: allServices, isDefaultClass };
    const { servers, served, warnings } = configure(state, edgeAddress);
    await nginx.apply(nginxText(servers, values.folder));
    if (warnings.join('\n') !== warned) {
      warned = warnings.join('\n');
      for (const warning of warnings) log.warn(warning);
    }
    for (const ingress of served) {
      if (ingress.status?.loadBalancer?.ingress?.[0]?.ip === edgeAddress) continue;
      const { namespace, name } = ingress.metadata;
      await client.mergePatch(`${networking}/namespaces/${namespace}/ingresses/${name}/status`, {
        status: { loadBalancer: { ingress: [{ ip: edgeAddress }] } },
      });
    }
  }
}

await main(address);
