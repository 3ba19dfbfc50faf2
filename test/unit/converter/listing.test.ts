/** What a hub lists that must not be believed, and how the fetch ends then. */
import { existsSync, statfsSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type Bench, bench, closeAll, failure, id } from './fetched.ts';

afterAll(closeAll);

const weights = 'model.safetensors';

describe.concurrent('a listing', () => {
  const commit = 'c'.repeat(40);

  /** The fetch against a hub whose listing is that. */
  async function fetchListing(
    listing: unknown,
    env: Record<string, string> = {},
    how: 'fetch' | 'convert' = 'fetch',
    next: string | null = null,
  ): Promise<{ reason: string; message: string; one: Bench }> {
    const one = await bench();
    const server = createServer((request, response) => {
      const answer = request.url!.includes('/tree/')
        ? listing
        : { _id: 'x', id, sha: commit, lastModified: 0 };
      if (next)
        response.setHeader(
          'link',
          `<http://${request.headers.host}${request.url!.split('?')[0]}${next}>; rel="next"`,
        );
      response.setHeader('content-type', 'application/json').end(JSON.stringify(answer));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const { reason, message } = await failure(one[how]({ env: { HF_ENDPOINT: url, ...env } }));
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    return { reason, message, one };
  }
  const file = (path: string, size = 10) => ({
    type: 'file',
    path,
    size,
    oid: 'a'.repeat(40),
    lfs: { oid: 'b'.repeat(64) },
  });

  it.each(['../../../evil.safetensors', '/tmp/evil.safetensors'])(
    'with the path %s is refused before anything is written',
    async (path) => {
      const { reason, one } = await fetchListing([file(weights), file(path)]);
      expect(reason).toBe('BadListing');
      expect(existsSync(join(one.modelsDir, '.incoming/org--model'))).toBe(false);
    },
  );

  it('is not even asked for when the hub answers a named commit with another one', async () => {
    const named = 'd'.repeat(40);
    const { reason, message, one } = await fetchListing([file(weights)], { REVISION: named });
    expect(reason).toBe('BadListing');
    expect(message).toMatch(new RegExp(`${commit}.*${named}.*HF_ENDPOINT`));
    expect(existsSync(join(one.modelsDir, 'org--model'))).toBe(false);
  });

  it('of a large file without its sha256 is refused before three downloads could tell', async () => {
    const { reason, message } = await fetchListing([{ ...file(weights), lfs: { size: 10 } }]);
    expect(reason).toBe('BadListing');
    expect(message).toMatch(/sha256.*HF_ENDPOINT/);
  });

  it('larger than the disk fails before anything is downloaded', async () => {
    const { reason } = await fetchListing([file(weights, 2 ** 52)]);
    expect(reason).toBe('NoSpace');
  });

  it('larger than half of the disk fails before anything is downloaded for two copies', async () => {
    const { bavail, bsize } = statfsSync(tmpdir());
    const listing = [file(weights, Math.floor(bavail * bsize * 0.7))];
    const { reason, message } = await fetchListing(listing, {}, 'convert');
    expect(reason).toBe('NoSpace');
    expect(message).toMatch(/for the gthread form.*spec\.loadFormat: auto/);
  });

  it.each([
    ['empty pages', []],
    [
      'pages of folders alone',
      Array.from({ length: 1000 }, (_, index) => ({ type: 'directory', path: `${index}`, size: 0 })),
    ],
  ])('that goes on for ever with %s is refused', async (_, listing) => {
    const { reason, message } = await fetchListing(listing, { REVISION: commit }, 'fetch', '?cursor=more');
    expect(reason).toBe('BadListing');
    expect(message).toMatch(/does not end/);
  });

  it.each([[[{ nonsense: true }]], [[]], [{ error: 'x' }]])('that is %j is refused', async (listing) => {
    const { reason } = await fetchListing(listing);
    expect(['BadListing', 'NoWeights']).toContain(reason);
  });

  it('of more than 16 MiB is refused', async () => {
    const { reason } = await fetchListing([{ ...file(weights), filling: 'x'.repeat(17 * 2 ** 20) }]);
    expect(reason).toBe('BadListing');
  });
});
