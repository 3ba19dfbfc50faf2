import { createSocket } from 'node:dgram';
import { Resolver } from 'node:dns/promises';
import { describe, expect, it } from 'vitest';
import { answer } from '../../../hack/edge/names.ts';

const addressOf = (service: string) => (service === 'default/gt-llama' ? '10.96.3.4' : null);

/** Node's own resolver (c-ares) asks a socket that answers with `answer`. */
async function asking<T>(use: (resolver: Resolver) => Promise<T>): Promise<T> {
  const socket = createSocket('udp4');
  socket.on('message', (message, from) => {
    const response = answer(message, addressOf);
    if (response) socket.send(response, from.port, from.address);
  });
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  const resolver = new Resolver({ timeout: 2_000, tries: 1 });
  resolver.setServers([`127.0.0.1:${socket.address().port}`]);
  try {
    return await use(resolver);
  } finally {
    socket.close();
  }
}

describe('names in the cluster', () => {
  it.each(['gt-llama.default.svc.cluster.local', 'GT-Llama.Default.svc.cluster.local'])(
    'lead to the Service for %s',
    async (name) => {
      expect(await asking((resolver) => resolver.resolve4(name))).toEqual(['10.96.3.4']);
    },
  );

  it.each([
    'gt-llama.other.svc.cluster.local',
    'a.gt-llama.default.svc.cluster.local',
    'huggingface.co',
    'svc.cluster.local',
  ])('do not exist for %s', async (name) => {
    await expect(asking((resolver) => resolver.resolve4(name))).rejects.toMatchObject({ code: 'ENOTFOUND' });
  });

  it('have no IPv6 address, which is not the same as no name', async () => {
    await expect(
      asking((resolver) => resolver.resolve6('gt-llama.default.svc.cluster.local')),
    ).rejects.toMatchObject({
      code: 'ENODATA',
    });
  });

  it.each([
    ['nothing', Buffer.alloc(0)],
    ['half a header', Buffer.alloc(11)],
    ['an answer', Buffer.concat([Buffer.from([0, 1, 0x80]), Buffer.alloc(9)])],
  ])('are not answered to %s', (_, message) => {
    expect(answer(message, addressOf)).toBeNull();
  });

  it.each([
    ['no question', Buffer.alloc(12)],
    ['a label that runs out of the message', Buffer.from([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 60, 97])],
    ['a pointer as a name', Buffer.from([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1])],
    ['more than a datagram holds', Buffer.concat([Buffer.from([0, 1, 1, 0, 0, 1]), Buffer.alloc(600)])],
  ])('are refused as malformed for %s', (_, message) => {
    expect(answer(message, addressOf)!.readUInt16BE(2) & 0xf).toBe(1);
  });
});
