/** One node's API server without Kubernetes (hack/one-node), and a client of it. */
import { Agent } from 'undici';
import { createClient, type KubernetesClient } from '#platform/kubernetes/client.ts';
import { type ApiServer, createApiServer } from '../../../../hack/one-node/api-server.ts';
import { afterwards } from './until.ts';

export interface ApiStandIn extends ApiServer {
  connect(): Promise<KubernetesClient>;
}

export async function apiStandIn(): Promise<ApiStandIn> {
  const server = await createApiServer();
  afterwards(server.close);
  return {
    ...server,
    async connect() {
      const dispatcher = new Agent();
      return createClient({
        origin: `http://127.0.0.1:${server.port}`,
        dispatcher,
        headers: async () => ({}),
        close: () => dispatcher.destroy(),
      });
    },
  };
}
