/** Finds the API server: the pod's own service account, else a kubeconfig. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { Agent } from 'undici';
import { type Connection, createClient, type KubernetesClient } from './client.ts';

const serviceAccount = '/var/run/secrets/kubernetes.io/serviceaccount';
/** Projected tokens are renewed well before their hour ends; read again at this age, ms. */
const credentialsAgeMsMax = 60_000;
/** Connections to one API server: a handful of watches and a few calls at once. */
const connectionsMax = 32;

/** Keeps the answer of an asynchronous read for a while. */
function remembered<T>(read: () => Promise<T>, ageMsMax: number): () => Promise<T> {
  let value: Promise<T> | undefined;
  let readAt = 0;
  return () => {
    const now = performance.now();
    if (!value || now - readAt > ageMsMax) {
      readAt = now;
      value = read();
      value.catch(() => {
        value = undefined;
      });
    }
    return value;
  };
}

async function inCluster(): Promise<Connection> {
  const ca = await readFile(`${serviceAccount}/ca.crt`, 'utf8');
  const host = process.env.KUBERNETES_SERVICE_HOST ?? 'kubernetes.default.svc';
  const port = process.env.KUBERNETES_SERVICE_PORT ?? '443';
  const dispatcher = new Agent({
    connect: { ca, timeout: 5_000 },
    connections: connectionsMax,
    keepAliveTimeout: 60_000,
  });
  const token = remembered(
    async () => (await readFile(`${serviceAccount}/token`, 'utf8')).trim(),
    credentialsAgeMsMax,
  );
  return {
    origin: `https://${host.includes(':') ? `[${host}]` : host}:${port}`,
    dispatcher,
    headers: async () => ({ authorization: `Bearer ${await token()}` }),
    close: () => dispatcher.destroy(),
  };
}

/**
 * By @kubernetes/client-node's KubeConfig, which knows every way a kubeconfig can name credentials (files, data, exec
 * plug-ins). Imported only here: in a cluster it is never loaded.
 */
async function fromKubeconfig(file: string | undefined): Promise<Connection> {
  const { KubeConfig } = await import('@kubernetes/client-node');
  const config = new KubeConfig();
  if (file) config.loadFromFile(file);
  else config.loadFromDefault();
  const cluster = config.getCurrentCluster();
  if (!cluster)
    throw new Error(
      `no current cluster in the kubeconfig ${file ?? '(default)'}: set KUBECONFIG or its current-context`,
    );
  const credentials = async () => {
    const options: Record<string, unknown> & { headers?: Record<string, string> } = {};
    await config.applyToHTTPSOptions(options as never);
    return options;
  };
  const first = await credentials();
  const dispatcher = new Agent({
    connect: {
      ca: first.ca as Buffer,
      cert: first.cert as Buffer,
      key: first.key as Buffer,
      rejectUnauthorized: !cluster.skipTLSVerify,
      timeout: 5_000,
    },
    connections: connectionsMax,
    keepAliveTimeout: 60_000,
  });
  const headers = remembered(async () => {
    const { headers: given = {}, auth } = (await credentials()) as {
      headers?: Record<string, string>;
      auth?: string;
    };
    const plain = Object.fromEntries(
      Object.entries(given).map(([name, value]) => [name.toLowerCase(), String(value)]),
    );
    return auth ? { ...plain, authorization: `Basic ${Buffer.from(auth).toString('base64')}` } : plain;
  }, credentialsAgeMsMax);
  return { origin: new URL(cluster.server).origin, dispatcher, headers, close: () => dispatcher.destroy() };
}

/**
 * @param options.kubeconfig a file; without it KUBECONFIG, else the pod's service account, else ~/.kube/config
 * @throws Error when there is neither
 */
export async function connect(options: { kubeconfig?: string | undefined } = {}): Promise<KubernetesClient> {
  const file = options.kubeconfig ?? process.env.KUBECONFIG;
  const connection =
    !file && existsSync(`${serviceAccount}/token`) ? await inCluster() : await fromKubeconfig(file);
  return createClient(connection);
}
