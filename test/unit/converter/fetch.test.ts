/** The fetch against the hub stub: what is published, what is fetched again, what goes wrong and how it ends. */
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { rememberRevision } from '../../../converter/act/publish.ts';
import { parseManifest } from '../../../converter/decide/manifest.ts';
import { placesOf } from '../../../converter/decide/places.ts';
import { roomOf } from '../../../converter/observe/disk.ts';
import { type Bench, bench, closeAll, failure, id } from './fetched.ts';

afterAll(closeAll);

const weights = 'model.safetensors';
const downloads = ({ hub }: Bench) => hub.stats().models[id]?.downloads ?? 0;
const weightBytes = ({ source }: Bench) => statSync(join(source, weights)).size;
const same = (one: Bench, path: string, name: string) =>
  readFileSync(join(path, name)).equals(readFileSync(join(one.source, name)));

describe.concurrent('a fetch', () => {
  it('publishes the files and a manifest, and leaves nothing else', async () => {
    const one = await bench();
    const fetched = await one.fetch();
    expect(fetched).toMatchObject({
      files: 5,
      downloaded: 5,
      path: join(one.modelsDir, 'org--model', fetched.commit),
    });
    for (const name of [weights, 'config.json', 'tokenizer.json'])
      expect(same(one, fetched.path, name)).toBe(true);
    const manifest = parseManifest(readFileSync(join(fetched.path, '.greenthread.json'), 'utf8'))!;
    expect(manifest).toMatchObject({
      modelName: id,
      revision: 'main',
      commit: fetched.commit,
      bytes: fetched.bytes,
    });
    expect(manifest.files.every(({ sha256 }) => /^[0-9a-f]{64}$/.test(sha256))).toBe(true);
    expect(readdirSync(join(one.modelsDir, '.incoming'))).toEqual([]);
    expect(readdirSync(join(one.modelsDir, 'org--model')).sort()).toEqual([fetched.commit, 'refs'].sort());
    expect(JSON.parse(one.output.filter((line) => line.includes('progress')).at(-1)!)).toMatchObject({
      bytes: fetched.bytes,
      totalBytes: fetched.bytes,
    });
  });

  it('of what is there downloads nothing', async () => {
    const one = await bench();
    const first = await one.fetch();
    one.hub.resetStats();
    expect(await one.fetch()).toEqual({ ...first, downloaded: 0 });
    expect(downloads(one)).toBe(0);
  });

  it('of a named commit that is there does not even ask the hub', async () => {
    const one = await bench();
    const { commit } = await one.fetch();
    one.hub.resetStats();
    expect(await one.fetch({ env: { REVISION: commit } })).toMatchObject({ commit, downloaded: 0 });
    expect(one.hub.stats().apiRequests).toBe(0);
  });

  it('of a revision that moved publishes the new commit beside the old one', async () => {
    const one = await bench();
    const old = await one.fetch();
    writeFileSync(join(one.source, 'config.json'), '{"moved":true}');
    const moved = await one.fetch();
    expect(moved.commit).not.toBe(old.commit);
    expect(existsSync(old.path) && same(one, moved.path, 'config.json')).toBe(true);
  });

  it('without the hub uses the commit it knows', async () => {
    const one = await bench();
    const first = await one.fetch();
    one.hub.faults.add({ kind: 'status', status: 503, where: 'api', times: 0 });
    expect(await one.fetch()).toEqual({ ...first, downloaded: 0 });
    await one.hub.close();
    expect(await one.fetch()).toEqual({ ...first, downloaded: 0 });
  });

  it('without the hub and without files says that it cannot be reached', async () => {
    const one = await bench();
    await one.hub.close();
    expect(await failure(one.fetch())).toMatchObject({ reason: 'HubUnreachable' });
  });

  it('of a damaged folder fetches what is missing alone', async () => {
    const one = await bench();
    const { path } = await one.fetch();
    rmSync(join(path, 'config.json'));
    writeFileSync(join(path, 'tokenizer.json'), 'cut');
    one.hub.resetStats();
    expect(await one.fetch()).toMatchObject({ downloaded: 2, files: 5 });
    expect(Object.keys(one.hub.stats().models[id]!.files).sort()).toEqual(['config.json', 'tokenizer.json']);
    expect(same(one, path, 'tokenizer.json')).toBe(true);
  });
});

describe.concurrent('a download', () => {
  it('that is cut goes on where it stopped', async () => {
    const one = await bench();
    one.hub.faults.add(
      { kind: 'truncated', bytes: 100_000, path: weights },
      { kind: 'truncated', bytes: 50_000, path: weights },
    );
    const fetched = await one.fetch();
    expect(same(one, fetched.path, weights)).toBe(true);
    expect(one.hub.stats().models[id]!.files[weights]).toBe(3);
    // Less than twice the first piece: a cut connection may lose some of what was sent.
    expect(one.hub.stats().models[id]!.bytes).toBeLessThan(fetched.bytes + 100_000);
  });

  it('that was interrupted goes on in the next Job', async () => {
    const one = await bench({ model: { weightBytes: 2_000_000 } });
    one.hub.faults.add({ kind: 'slow', bytesPerSecond: 4_000_000, path: weights });
    const stop = new AbortController();
    const part = join(one.modelsDir, '.incoming/org--model');
    const interrupted = failure(one.fetch({ signal: stop.signal }));
    for (let have = 0; have < 200_000; ) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      const [commit] = existsSync(part) ? readdirSync(part) : [];
      const file = join(part, commit ?? '', `${weights}.greenthread-part`);
      have = existsSync(file) ? statSync(file).size : 0;
    }
    stop.abort();
    expect(await interrupted).toMatchObject({ reason: 'Interrupted' });
    expect(existsSync(join(one.modelsDir, '.incoming/org--model.lock'))).toBe(false);
    one.hub.resetStats();
    const { path } = await one.fetch();
    expect(same(one, path, weights)).toBe(true);
    expect(one.hub.stats().models[id]!.bytes).toBeLessThanOrEqual(weightBytes(one) - 200_000 + 10_000);
  });

  it('that the server restarts from the first byte is taken from there', async () => {
    const one = await bench();
    one.hub.faults.add(
      { kind: 'truncated', bytes: 100_000, path: weights },
      { kind: 'noRange', path: weights },
    );
    const { path } = await one.fetch();
    expect(same(one, path, weights)).toBe(true);
  });

  it.each([weights, 'config.json'])('of %s with a wrong hash is done again', async (name) => {
    const one = await bench();
    one.hub.faults.add({ kind: 'corrupt', path: name });
    const { path } = await one.fetch();
    expect(same(one, path, name)).toBe(true);
    expect(one.hub.stats().models[id]!.files[name]).toBe(2);
  });

  it('whose hash stays wrong fails, and nothing is published', async () => {
    const one = await bench();
    one.hub.faults.add({ kind: 'corrupt', path: weights, times: 0 });
    expect(await failure(one.fetch())).toMatchObject({ reason: 'ChecksumMismatch' });
    expect(one.hub.stats().models[id]!.files[weights]).toBe(3);
    expect(existsSync(join(one.modelsDir, 'org--model'))).toBe(false);
  });

  it('survives 503 and 429 for a while', async () => {
    const one = await bench();
    one.hub.faults.add(
      { kind: 'status', status: 503, where: 'api', retryAfterSeconds: 0 },
      { kind: 'status', status: 503, path: weights, times: 2 },
      { kind: 'status', status: 429, path: 'config.json', retryAfterSeconds: 0 },
    );
    expect(await one.fetch()).toMatchObject({ downloaded: 5 });
  });

  it('gives up a hub that fails for ever, after six tries', async () => {
    const one = await bench();
    one.hub.faults.add({ kind: 'status', status: 500, where: 'api', times: 0 });
    expect(await failure(one.fetch())).toMatchObject({ reason: 'HubUnavailable' });
    expect(one.hub.stats().apiRequests).toBe(6);
  });
});

describe.concurrent('access', () => {
  const config = { gated: true, tokens: ['hf_good'], refusedTokens: ['hf_refused'] };

  it('without a token names the value to set and the licence', async () => {
    const one = await bench({ config });
    const { reason, message } = await failure(one.fetch());
    expect(reason).toBe('TokenNeeded');
    expect(message).toMatch(/accept its licence.*controller\.huggingFaceToken/);
  });

  it('with a token that did not accept the licence says so, and never the token', async () => {
    const one = await bench({ config });
    const { reason, message } = await failure(one.fetch({ env: { HF_TOKEN: 'hf_refused' } }));
    expect(reason).toBe('LicenceNotAccepted');
    expect(one.output.join('') + message).not.toContain('hf_refused');
  });

  it('with a good token works, and the CDN on another host never sees it', async () => {
    const one = await bench({ config });
    const other = await bench({ config, hub: { cdnUrl: one.hub.url } });
    expect(await other.fetch({ env: { HF_TOKEN: 'hf_good' } })).toMatchObject({ downloaded: 5 });
    expect(one.hub.stats().models[id]!.files).toEqual({ [weights]: 1 });
    expect(one.hub.stats().cdnRequestsWithToken).toBe(0);
    expect(other.output.join('')).not.toContain('hf_good');
  });

  it('to what is not there names the field', async () => {
    const one = await bench();
    expect(await failure(one.fetch({ env: { REVISION: 'v9' } }))).toMatchObject({
      reason: 'RevisionNotFound',
    });
    const gone = await failure(one.fetch({ env: { MODEL_NAME: 'org/nothing', HF_TOKEN: 'hf_x' } }));
    expect(gone).toMatchObject({ reason: 'ModelNotFound' });
  });
});

describe.concurrent('two Jobs at once', () => {
  it('download each file once', async () => {
    const one = await bench();
    one.hub.faults.add({ kind: 'slow', bytesPerSecond: 1_500_000, path: weights });
    const both = await Promise.all([one.fetch(), one.fetch()]);
    expect(both.map(({ downloaded }) => downloaded).sort()).toEqual([0, 5]);
    expect(downloads(one)).toBe(5);
    // Two revisions and one listing of three pages: who waited looked at the disk alone.
    expect(one.hub.stats().apiRequests).toBe(5);
  });

  it('do not wait for one that died', async () => {
    const one = await bench();
    const lock = join(one.modelsDir, '.incoming/org--model.lock');
    mkdirSync(join(one.modelsDir, '.incoming'));
    writeFileSync(lock, 'dead');
    const longAgo = new Date(Date.now() - 60_000);
    utimesSync(lock, longAgo, longAgo);
    const both = await Promise.all([one.fetch(), one.fetch()]);
    expect(both.map(({ downloaded }) => downloaded).sort()).toEqual([0, 5]);
    expect(readdirSync(join(one.modelsDir, '.incoming'))).toEqual([]);
  });

  it('of which one is ended while it waits leave the other alone', async () => {
    const one = await bench();
    mkdirSync(join(one.modelsDir, '.incoming'));
    writeFileSync(join(one.modelsDir, '.incoming/org--model.lock'), 'living');
    const stop = new AbortController();
    const waiting = failure(one.fetch({ signal: stop.signal }));
    setTimeout(() => stop.abort(), 60);
    expect(await waiting).toMatchObject({ reason: 'Interrupted' });
    expect(readFileSync(join(one.modelsDir, '.incoming/org--model.lock'), 'utf8')).toBe('living');
  });
});

describe.concurrent('a repair', () => {
  it('that does not come to its end leaves the good files to the pods that use them', async () => {
    const one = await bench();
    const { path, commit } = await one.fetch();
    writeFileSync(join(path, 'tokenizer.json'), 'cut');
    one.hub.faults.add({ kind: 'status', status: 451, path: 'tokenizer.json' });
    expect(await failure(one.fetch())).toMatchObject({ reason: 'HubRefused' });
    for (const name of [weights, 'config.json']) expect(same(one, path, name)).toBe(true);
    const { ino } = statSync(join(path, weights));
    expect(await one.fetch()).toMatchObject({ commit, path, downloaded: 1, files: 5 });
    expect(same(one, path, 'tokenizer.json')).toBe(true);
    expect(statSync(join(path, weights)).ino).toBe(ino);
    expect(readdirSync(join(one.modelsDir, '.incoming'))).toEqual([]);
    expect(await one.fetch()).toMatchObject({ downloaded: 0 });
  });

  it('that was ended before its last step is completed without a download', async () => {
    const one = await bench();
    const { path, commit } = await one.fetch();
    // One file is in its place, one still to be put there, and the manifest is not to be read.
    const waiting = join(one.modelsDir, '.incoming/org--model', commit);
    mkdirSync(waiting, { recursive: true });
    renameSync(join(path, 'config.json'), join(waiting, 'config.json'));
    writeFileSync(join(path, '.greenthread.json'), '{');
    expect(await one.fetch()).toMatchObject({ downloaded: 0, files: 5 });
    expect(same(one, path, 'config.json')).toBe(true);
    mkdirSync(join(waiting, 'deep'), { recursive: true });
    expect(await one.fetch()).toMatchObject({ downloaded: 0 });
    expect(readdirSync(join(one.modelsDir, '.incoming'))).toEqual([]);
  });

  it('is not made of a commit that the disk cannot be asked for', async () => {
    const one = await bench();
    const { path } = await one.fetch();
    const manifest = join(path, '.greenthread.json');
    rmSync(manifest);
    symlinkSync(manifest, manifest); // ELOOP, in place of an EIO that nobody can order
    one.hub.resetStats();
    await expect(one.fetch()).rejects.toMatchObject({ code: 'ELOOP' });
    expect(same(one, path, weights)).toBe(true);
    expect(downloads(one)).toBe(0);
  });
});

describe.concurrent('a partial file', () => {
  const incoming = (one: Bench) => join(one.modelsDir, '.incoming/org--model');

  /** Waits until so many bytes of the weights are there. @returns the partial file */
  async function partOf(one: Bench, bytes: number): Promise<string> {
    for (;;) {
      const [commit] = existsSync(incoming(one)) ? readdirSync(incoming(one)) : [];
      const part = join(incoming(one), commit ?? '', `${weights}.greenthread-part`);
      if (existsSync(part) && statSync(part).size >= bytes) return part;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  it('is written by one, though two believe that they hold the lock; who lost it publishes nothing', async () => {
    const one = await bench({ model: { weightBytes: 2_000_000 } });
    one.hub.faults.add({ kind: 'slow', bytesPerSecond: 2_000_000, path: weights });
    const first = failure(one.fetch());
    const part = await partOf(one, 200_000);
    rmSync(`${incoming(one)}.lock`);
    // Without ranges, the second one would begin by cutting off what the first one writes.
    one.hub.faults.add({ kind: 'noRange', path: weights, times: 0 });
    expect(await failure(one.fetch())).toMatchObject({ reason: 'Busy' });
    expect(await first).toMatchObject({ reason: 'Busy' });
    expect(existsSync(part)).toBe(true);
    expect(existsSync(join(one.modelsDir, 'org--model'))).toBe(false);
    const { path } = await one.fetch();
    expect(same(one, path, weights)).toBe(true);
  });

  it('of an earlier Job is read again when it is whole: what its bytes are counts, not what came', async () => {
    const one = await bench({ model: { weightBytes: 2_000_000 } });
    one.hub.faults.add({ kind: 'truncated', bytes: 100_000, path: weights, times: 0 });
    const stop = new AbortController();
    const interrupted = failure(one.fetch({ signal: stop.signal }));
    await partOf(one, 90_000);
    stop.abort();
    await interrupted;
    one.hub.faults.clear();
    one.hub.faults.add({ kind: 'slow', bytesPerSecond: 4_000_000, path: weights });
    const fetching = one.fetch();
    const part = await partOf(one, 300_000);
    const other = openSync(part, 'r+');
    writeSync(other, 'what a Job of an earlier release still wrote', 1000);
    closeSync(other);
    expect(same(one, (await fetching).path, weights)).toBe(true);
    expect(one.hub.stats().models[id]!.files[weights]).toBeGreaterThan(2);
  });
});

describe.concurrent('the commit of a revision', () => {
  it('is remembered by many Jobs at once, and what a killed one left of it goes', async () => {
    const one = await bench();
    const { commit } = await one.fetch();
    const refs = join(one.modelsDir, 'org--model/refs');
    const places = placesOf(one.modelsDir, id, 'main');
    const old = join(refs, '.of-a-killed-Job');
    writeFileSync(old, '');
    utimesSync(old, new Date(0), new Date(0));
    for (let round = 0; round < 5; round++) {
      writeFileSync(join(refs, 'main'), 'f'.repeat(40));
      await Promise.all(Array.from({ length: 8 }, () => rememberRevision(places, commit)));
      expect(readFileSync(join(refs, 'main'), 'utf8').trim()).toBe(commit);
    }
    expect(readdirSync(refs)).toEqual(['main']);
  });
});

describe('a disk', () => {
  it("is the kubelet's where the file for its last word, mounted into the pod, lies on it too", async () => {
    const { modelsDir } = await bench();
    const file = join(modelsDir, 'word');
    writeFileSync(file, '');
    // A link from another file system stands for the mount: what is beside it lies elsewhere.
    const elsewhere = mkdtempSync('/dev/shm/gt-fetch-');
    const mounted = join(elsewhere, 'word');
    symlinkSync(file, mounted);
    try {
      expect(await roomOf(modelsDir, mounted)).toMatchObject({ isNodeDisk: true });
      expect(await roomOf(elsewhere, mounted)).toMatchObject({ isNodeDisk: false });
      for (const no of [file, join(modelsDir, 'none'), '/dev/null', null])
        expect(await roomOf(modelsDir, no)).toMatchObject({ isNodeDisk: false });
      const { freeBytes, totalBytes } = await roomOf(modelsDir, null);
      expect(freeBytes).toBeGreaterThan(0);
      expect(totalBytes).toBeGreaterThan(freeBytes);
    } finally {
      rmSync(elsewhere, { recursive: true });
    }
  });
});
