/** Puts the sidecar's parts together: server, loop, engine, link. */
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { errorText, type Log } from '#platform/log.ts';
import { sockets } from '#proto/names.ts';
import { openEngine } from './act/forward.ts';
import { openSibling } from './act/hand-on.ts';
import type { Environment } from './decide/environment.ts';
import { Loop } from './loop.ts';
import { watchApiKeys } from './observe/api-keys.ts';
import { createFrontDoor } from './observe/http.ts';
import { dialLink } from './observe/link.ts';

export interface FrontDoor {
  port: number;
  loop: Loop;
  /** Cuts what has begun, refuses what has not, and frees every socket and timer. */
  close(): Promise<void>;
}

/**
 * Opens the front door and dials the agent.
 * @throws Error when the port cannot be listened on
 */
export async function openFrontDoor(environment: Environment, log: Log): Promise<FrontDoor> {
  const { podDir, listenHost, listenPort } = environment;
  const engine = openEngine(join(podDir, sockets.engine));
  const sibling = openSibling(environment.service);
  const keys = await watchApiKeys(environment.apiKeysDir, (error) =>
    log.warn('the API keys cannot be read', { error: errorText(error) }),
  );
  const keepKeys = environment.apiKeysDir === null;
  const loop = new Loop({ environment, engine, sibling, log, now: () => performance.now(), keepKeys });
  const server = createFrontDoor(
    { own: environment.own, settings: loop.settings, keys: keys.current, bodyRoom: loop.bodyRoom },
    loop.onHttp,
  );
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port: listenPort, ...(listenHost === null ? {} : { host: listenHost }) }, resolve);
  });
  server.on('error', (error) => log.error('the front door', { error: errorText(error) }));
  const link = dialLink(join(podDir, sockets.agent), loop.hello, loop.onLink);
  loop.attach(link);
  return {
    port: (server.address() as AddressInfo).port,
    loop,
    close: async () => {
      server.close();
      await loop.cutAll();
      link.close();
      keys.close();
      server.closeAllConnections();
      await Promise.all([engine.destroy(), sibling.close()]);
    },
  };
}
