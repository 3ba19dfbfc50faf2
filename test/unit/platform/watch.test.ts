import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Agent } from 'undici';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { createClient, KubernetesError, type KubernetesObject } from '../../../platform/kubernetes/client.ts';
import { type WatchEvent, watch } from '../../../platform/kubernetes/watch.ts';
import { createLog } from '../../../platform/log.ts';

const open: { close(): void }[] = [];
afterEach(() => {
  for (const each of open.splice(0)) each.close();
});

async function serve(handler: (request: IncomingMessage, response: ServerResponse) => void) {
  const server: Server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const dispatcher = new Agent();
  open.push({
    close: () => {
      server.closeAllConnections();
      server.close();
      void dispatcher.destroy();
    },
  });
  return createClient({
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    dispatcher,
    headers: async () => ({ authorization: 'Bearer t' }),
    close: () => dispatcher.destroy(),
  });
}

const pod = (name: string, resourceVersion: string) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, resourceVersion },
});
const list = (items: object[], resourceVersion: string, more?: string) =>
  JSON.stringify({
    apiVersion: 'v1',
    kind: 'PodList',
    metadata: { resourceVersion, ...(more && { continue: more }) },
    items,
  });
const quiet = createLog('test', 'error', () => undefined);

describe('a watch', () => {
  it('lists all pages, tells changes in order, and lists again after a 410', async () => {
    let lists = 0;
    const client = await serve((request, response) => {
      const url = new URL(request.url!, 'http://x');
      if (url.searchParams.get('watch')) {
        if (url.searchParams.get('resourceVersion') !== '5') return; // the second watch stays open
        response.write(
          `${JSON.stringify({ type: 'ADDED', object: pod('c', '6') })}\n{"type":"BOOKMARK","object":`,
        );
        response.write('{"metadata":{"resourceVersion":"9"}}}\n');
        response.write(`${JSON.stringify({ type: 'DELETED', object: pod('c', '10') })}\n`);
        response.end(
          `${JSON.stringify({ type: 'ERROR', object: { code: 410, reason: 'Expired', message: 'too old' } })}\n`,
        );
        return;
      }
      if (url.searchParams.get('continue')) return void response.end(list([pod('b', '2')], '5'));
      lists += 1;
      response.end(lists === 1 ? list([pod('a', '1')], '5', 'next') : list([pod('a', '1')], '20'));
    });
    const seen: WatchEvent<KubernetesObject>[] = [];
    const running = watch(client, '/api/v1/pods', {}, (event) => seen.push(event), quiet);
    open.push({ close: () => running.stop() });
    await vi.waitFor(() => expect(lists).toBe(2), 5_000);
    await vi.waitFor(() => expect(seen).toHaveLength(4), 5_000);
    expect(seen.map((event) => event.type)).toEqual(['synced', 'put', 'gone', 'synced']);
    expect(seen[0]).toMatchObject({
      items: [{ kind: 'Pod', metadata: { name: 'a' } }, { metadata: { name: 'b' } }],
    });
  });

  it('goes on after the server refused and after a handler threw', async () => {
    let calls = 0;
    const client = await serve((request, response) => {
      calls += 1;
      if (calls === 1) {
        response.statusCode = 503;
        return void response.end('{"kind":"Status","reason":"ServiceUnavailable","message":"starting"}');
      }
      if (request.url?.includes('watch=true')) return;
      response.end(list([pod('a', '1')], '5'));
    });
    let told = 0;
    const running = watch(
      client,
      '/api/v1/pods',
      {},
      () => {
        told += 1;
        throw new Error('handler');
      },
      quiet,
    );
    open.push({ close: () => running.stop() });
    await vi.waitFor(() => expect(told).toBe(1), 5_000);
  });
});

describe('a client', () => {
  it('turns a refusal into an error with status, reason and the server’s sentence', async () => {
    const client = await serve((_, response) => {
      response.statusCode = 422;
      response.end('{"kind":"Status","reason":"Invalid","message":"spec.replicas: must be at most 100"}');
    });
    await expect(client.apply('/x', {}, { fieldManager: 'm' })).rejects.toMatchObject({
      status: 422,
      reason: 'Invalid',
      message: 'spec.replicas: must be at most 100',
    });
  });

  it('says null for what is not there, takes a delete of it as done, and marks a server that cannot be reached', async () => {
    const client = await serve((_, response) => {
      response.statusCode = 404;
      response.end('{"kind":"Status","reason":"NotFound","message":"no"}');
    });
    expect(await client.get('/x')).toBeNull();
    await client.delete('/x');
    await client.close();
    await expect(client.list('/x')).rejects.toBeInstanceOf(KubernetesError);
    await expect(client.list('/x')).rejects.toMatchObject({ status: 0, reason: 'Unreachable' });
  });
});
