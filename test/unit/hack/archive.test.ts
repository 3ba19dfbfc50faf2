import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { archive, makeImage, makeLayer, removeStale, writeInto } from '../../../hack/oci/archive.ts';

let store: string;
beforeEach(async () => {
  store = await mkdtemp(join(tmpdir(), 'greenthread-oci-'));
});
afterEach(() => rm(store, { recursive: true, force: true }));

const hello = (root: string) => writeInto(root, '/app/hello.txt', 'hello');
const settings = { name: 'localhost/x:dev', env: { A: 'b' }, user: '65532:65532' };
const sha256 = (content: Buffer) => createHash('sha256').update(content).digest('hex');

describe('an image made without docker', () => {
  it('has the same digest for the same files, whenever they were made', async () => {
    const first = await makeLayer(store, 'one', hello);
    const second = await makeLayer(store, 'two', async (root) => {
      await hello(root);
      await utimes(join(root, 'app/hello.txt'), 1, 1);
    });
    expect(second.digest).toBe(first.digest);
    expect((await makeImage(store, settings, [second])).digest).toBe(
      (await makeImage(store, settings, [first])).digest,
    );
  });

  it('does not make a layer twice whose key it has', async () => {
    await makeLayer(store, 'one', hello);
    const again = await makeLayer(store, 'one', () => Promise.reject(new Error('made again')));
    expect(again.digest).toBe(sha256(await readFile(again.file)));
  });

  it('keeps nothing of a layer that could not be made', async () => {
    await expect(makeLayer(store, 'one', () => Promise.reject(new Error('no such file')))).rejects.toThrow(
      'no such file',
    );
    expect((await makeLayer(store, 'one', hello)).digest).toMatch(/^[0-9a-f]{64}$/);
  });

  it('is an OCI layout whose digests are those of its blobs, all the way to the files', async () => {
    const image = await makeImage(store, settings, [await makeLayer(store, 'one', hello)]);
    const blob = async (digest: string) => {
      const content = await readFile(join(image.folder, 'blobs', digest.replace(':', '/')));
      expect(`sha256:${sha256(content)}`).toBe(digest);
      return content;
    };
    const index = JSON.parse(await readFile(join(image.folder, 'index.json'), 'utf8'));
    expect(index.manifests[0].digest).toBe(image.digest);
    expect(index.manifests[0].annotations['io.containerd.image.name']).toBe('localhost/x:dev');
    const manifest = JSON.parse(String(await blob(image.digest)));
    const config = JSON.parse(String(await blob(manifest.config.digest)));
    expect(config.config).toMatchObject({ Env: ['A=b'], User: '65532:65532' });
    expect(config.rootfs.diff_ids).toEqual([manifest.layers[0].digest]);
    const layer = await blob(manifest.layers[0].digest);
    expect(layer.length).toBe(manifest.layers[0].size);
    expect(String(execFileSync('tar', ['-xOf', '-', './app/hello.txt'], { input: layer }))).toBe('hello');
  });

  it('leaves out of its archive the layers that the reader has', async () => {
    const base = await makeLayer(store, 'base', (root) => writeInto(root, '/base.txt', 'base'));
    const image = await makeImage(store, settings, [base, await makeLayer(store, 'one', hello)]);
    const names = async (has: (layer: string) => boolean) => {
      const { stdout } = await archive(image, has).pipe('tar', ['-tf', '-']);
      return stdout.split('\n');
    };
    expect(await names(() => false)).toContain(`blobs/sha256/${base.digest}`);
    const thin = await names((layer) => layer === base.digest);
    expect(thin).not.toContain(`blobs/sha256/${base.digest}`);
    expect(thin).toEqual(
      expect.arrayContaining(['oci-layout', 'index.json', `blobs/sha256/${image.layers[1]}`]),
    );
  });

  it('removes the layouts that nothing uses, and keeps fresh layers for the next build', async () => {
    const layer = await makeLayer(store, 'one', hello);
    const old = await makeImage(store, settings, [layer]);
    const used = await makeImage(store, { ...settings, user: '0:0' }, [layer]);
    await removeStale(store, [used.folder]);
    expect([old.folder, used.folder, layer.file].map(existsSync)).toEqual([false, true, true]);
  });
});
