/** The conversion against the hub stub: what is published, what is written again, what goes wrong and how it ends. */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { modelFolder } from '#proto/names.ts';
import { FetchFailure } from '../../../converter/decide/failures.ts';
import { faultsOf, llama, shard, type Tensor, tensor, writeCheckpoint } from './checkpoint.ts';
import { type Bench, bench, closeAll, id } from './fetched.ts';

afterAll(closeAll);

type Shards = Map<string, Tensor[]>;

/** A hub with a sharded model in place of the usual one. */
async function sharded(shards: Shards = llama()): Promise<Bench & { shards: Shards }> {
  const one = await bench();
  rmSync(join(one.source, 'model.safetensors'));
  writeCheckpoint(one.source, shards);
  return { ...one, shards };
}

async function failure(promise: Promise<unknown>): Promise<FetchFailure> {
  const error = await promise.then(
    () => new Error('nothing was thrown'),
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof FetchFailure)) throw error;
  return error;
}

/** A commit that the hub does not have. */
const other = 'f'.repeat(40);
const firstShard = 'model-00001-of-00002.safetensors';
const downloads = ({ hub }: Bench) => hub.stats().models[id]?.downloads ?? 0;
const left = (one: Bench) => readdirSync(join(one.modelsDir, '.incoming'));

/** Flips a byte in place. */
function damage(path: string, position: number): void {
  const bytes = readFileSync(path);
  const file = openSync(path, 'r+');
  writeSync(file, Buffer.from([bytes[position]! ^ 1]), 0, 1, position);
}

describe('a conversion', () => {
  it('publishes every tensor beside the upstream files, and leaves nothing else', async () => {
    const one = await sharded();
    const { path, gthread } = await one.convert();
    expect(gthread.path).toBe(`${path}.gthread-1`);
    expect(faultsOf(gthread.path, one.shards)).toEqual([]);
    expect(readdirSync(gthread.path).sort()).toEqual(['manifest.pb', 'weights']);
    expect(left(one)).toEqual([]);
    expect(gthread.written).toBe(gthread.bytes);
    expect(JSON.parse(one.output.filter((line) => line.includes('Converting')).at(-1)!)).toMatchObject({
      bytes: gthread.bytes,
      totalBytes: gthread.bytes,
    });
  });

  it('of what is there writes and downloads nothing', async () => {
    const one = await sharded();
    const { gthread } = await one.convert();
    one.hub.resetStats();
    expect((await one.convert()).gthread).toEqual({ ...gthread, written: 0 });
    expect(downloads(one)).toBe(0);
  });

  it('that was ended right after it published leaves nothing for ever, and other commits alone', async () => {
    const one = await sharded();
    const { path } = await one.convert();
    const incoming = join(one.modelsDir, '.incoming');
    const [fetching, converting] = [
      join(incoming, modelFolder(id)),
      join(incoming, `${modelFolder(id)}.gthread`),
    ];
    mkdirSync(fetching);
    mkdirSync(converting);
    writeFileSync(join(converting, `${basename(path)}.gthread-1.journal`), 'hashes');
    await one.convert();
    expect(left(one)).toEqual([]);
    const others = [join(fetching, other), join(converting, `${other}.gthread-1`)];
    for (const folder of others) mkdirSync(folder, { recursive: true });
    await one.convert();
    expect(others.map(existsSync)).toEqual([true, true]);
  });

  it('of what is there needs no hub: a redeployed Model comes up without it', async () => {
    const one = await sharded();
    const { commit, gthread } = await one.convert();
    const again = await one.convert({ env: { HF_ENDPOINT: 'http://127.0.0.1:1' } });
    expect(again).toMatchObject({ commit, downloaded: 0, gthread: { path: gthread.path, written: 0 } });
  });

  it('of a model fetched for loadFormat auto downloads nothing', async () => {
    const one = await sharded();
    await one.fetch();
    one.hub.resetStats();
    expect(faultsOf((await one.convert()).gthread.path, one.shards)).toEqual([]);
    expect(downloads(one)).toBe(0);
  });

  it('of an interrupted one goes on where it stopped', async () => {
    const one = await sharded();
    const stop = new AbortController();
    await one.fetch();
    const interrupted = await failure(
      one.convert({ signal: stop.signal, onLine: (line) => line.includes('Converting') && stop.abort() }),
    );
    expect(interrupted.reason).toBe('Interrupted');
    const { gthread } = await one.convert();
    expect(gthread.written).toBeLessThan(gthread.bytes);
    expect(faultsOf(gthread.path, one.shards)).toEqual([]);
  });

  it('does not go on from chunks that changed on the disk', async () => {
    const one = await sharded();
    const stop = new AbortController();
    const { path } = await one.fetch();
    await failure(
      one.convert({ signal: stop.signal, onLine: (line) => line.includes('Converting') && stop.abort() }),
    );
    const part = join(
      one.modelsDir,
      '.incoming/org--model.gthread',
      `${basename(path)}.gthread-1`,
      'weights',
    );
    damage(part, 1000);
    const { gthread } = await one.convert();
    expect(gthread.written).toBe(gthread.bytes);
    expect(faultsOf(gthread.path, one.shards)).toEqual([]);
  });

  it('does not go on from the conversion of other files', async () => {
    const one = await sharded();
    const { path } = await one.fetch();
    const converting = join(one.modelsDir, '.incoming/org--model.gthread');
    mkdirSync(join(converting, `${basename(path)}.gthread-1`), { recursive: true });
    writeFileSync(join(converting, `${basename(path)}.gthread-1`, 'weights'), Buffer.alloc(40_000_000, 1));
    writeFileSync(join(converting, `${basename(path)}.gthread-1.journal`), Buffer.alloc(500, 1));
    mkdirSync(join(converting, `${'0'.repeat(40)}.gthread-1`));
    expect(faultsOf((await one.convert()).gthread.path, one.shards)).toEqual([]);
    expect(left(one)).toEqual([]);
  });

  it.each([
    ['whose manifest is cut off', (form: string) => truncateSync(join(form, 'manifest.pb'), 50)],
    ['whose manifest is of nothing', (form: string) => truncateSync(join(form, 'manifest.pb'), 0)],
    ['whose weights are cut off', (form: string) => truncateSync(join(form, 'weights'), 1000)],
    ['whose weights are gone', (form: string) => rmSync(join(form, 'weights'))],
    ['that is empty', (form: string) => ['weights', 'manifest.pb'].map((name) => rmSync(join(form, name)))],
  ])('writes a published form %s again', async (_, harm) => {
    const one = await sharded();
    const { gthread } = await one.convert();
    harm(gthread.path);
    const again = await one.convert();
    expect(again.gthread.written).toBe(gthread.bytes);
    expect(faultsOf(again.gthread.path, one.shards)).toEqual([]);
    expect(left(one)).toEqual([]);
  });

  it('does not touch a published form that the disk cannot be asked for', async () => {
    const one = await sharded();
    const { gthread } = await one.convert();
    const manifest = join(gthread.path, 'manifest.pb');
    rmSync(manifest);
    symlinkSync(manifest, manifest); // ELOOP, in place of an EIO that nobody can order
    await expect(one.convert()).rejects.toMatchObject({ code: 'ELOOP' });
    expect(statSync(join(gthread.path, 'weights')).size).toBe(gthread.bytes);
  });

  it('by two Jobs at once is done once', async () => {
    const one = await sharded();
    const both = await Promise.all([one.convert(), one.convert()]);
    expect(both.map(({ gthread }) => gthread.written).sort()).toEqual([0, both[0]!.gthread.bytes]);
    expect(faultsOf(both[0]!.gthread.path, one.shards)).toEqual([]);
  });

  it('beside a fetch of the same model leaves both whole', async () => {
    const one = await sharded();
    const [fetched, converted] = await Promise.all([one.fetch(), one.convert()]);
    expect(fetched.path).toBe(converted.path);
    expect(faultsOf(converted.gthread.path, one.shards)).toEqual([]);
  });

  it('finds a file that changed on the disk, says so, and the next run has it again', async () => {
    const one = await sharded();
    const { path } = await one.fetch();
    damage(join(path, firstShard), 1_000_000);
    const { reason, message } = await failure(one.convert());
    expect(reason).toBe('ChecksumMismatch');
    expect(existsSync(join(path, 'config.json'))).toBe(true);
    expect(message).toContain(`${firstShard} on this node's disk no longer is what was fetched`);
    one.hub.resetStats();
    const { gthread, downloaded } = await one.convert();
    expect(downloaded).toBe(1);
    expect(faultsOf(gthread.path, one.shards)).toEqual([]);
  });

  it('takes a header that changed on the disk for damage, not for a broken model', async () => {
    const one = await sharded();
    const { path } = await one.fetch();
    damage(join(path, firstShard), 30);
    expect((await failure(one.convert())).reason).toBe('ChecksumMismatch');
    expect(faultsOf((await one.convert()).gthread.path, one.shards)).toEqual([]);
  });

  it('of a file cut off on the disk fetches it again at once', async () => {
    const one = await sharded();
    const { path } = await one.fetch();
    truncateSync(join(path, firstShard), 4_000_000);
    const { gthread, downloaded } = await one.convert();
    expect(downloaded).toBe(1);
    expect(faultsOf(gthread.path, one.shards)).toEqual([]);
  });

  it.each([
    ['cut off', () => shard([tensor('a', 1000)]).subarray(0, 500), 'ends beyond'],
    [
      'with a byte too many',
      () => Buffer.concat([shard([tensor('a', 1000)]), Buffer.alloc(1)]),
      'belong to no',
    ],
  ])('of a file that the hub itself has %s names file and remedy', async (_, content, words) => {
    const one = await bench();
    writeFileSync(join(one.source, 'model.safetensors'), content());
    const { reason, message } = await failure(one.convert());
    expect(reason).toBe('BadWeights');
    expect(message).toMatch(/^model\.safetensors: .*choose another spec\.revision$/);
    expect(message).toContain(words);
    expect(left(one)).toEqual([]);
  });

  it('of an index that names other tensors than the files have converts what vLLM would load, and says so', async () => {
    const one = await sharded();
    const index = join(one.source, 'model.safetensors.index.json');
    writeFileSync(index, readFileSync(index, 'utf8').replace('"lm_head.weight"', '"lm_head.qweight"'));
    const { gthread } = await one.convert();
    expect(faultsOf(gthread.path, one.shards)).toEqual([]);
    expect(gthread.warning).toContain('names 1 tensors that its files have not');
    expect((await one.convert()).gthread.warning).toBeUndefined();
  });

  it('of a model without safetensors says to do without', async () => {
    const one = await bench();
    rmSync(join(one.source, 'model.safetensors'));
    writeFileSync(join(one.source, 'pytorch_model.bin'), 'pickles');
    expect(await failure(one.convert())).toMatchObject({ reason: 'NotConvertible' });
    expect((await one.fetch()).files).toBe(5);
  });

  it('of a commit that moved leaves the form of the old one', async () => {
    const one = await sharded();
    const before = await one.convert();
    const shards = llama();
    writeCheckpoint(one.source, shards);
    const after = await one.convert();
    expect(after.commit).not.toBe(before.commit);
    expect(faultsOf(before.gthread.path, one.shards)).toEqual([]);
    expect(faultsOf(after.gthread.path, shards)).toEqual([]);
  });

  it('converts nothing but empty and tiny tensors as well', async () => {
    const shards: Shards = new Map([
      ['model.safetensors', [tensor('a', 0), tensor('model.layers.0.b', 2), tensor('c', 0)]],
    ]);
    const one = await sharded(shards);
    const { gthread } = await one.convert();
    expect(faultsOf(gthread.path, shards)).toEqual([]);
    expect(statSync(join(gthread.path, 'weights')).size).toBe(2 * 1024 * 1024);
  });

  it('is not stopped by strange files on its way', async () => {
    const one = await sharded();
    mkdirSync(join(one.modelsDir, '.incoming/org--model.gthread/x'), { recursive: true });
    writeFileSync(join(one.modelsDir, '.incoming/org--model.gthread/y'), 'z');
    appendFileSync(join(one.modelsDir, '.incoming/org--model.gthread/x/w'), 'z');
    expect(faultsOf((await one.convert()).gthread.path, one.shards)).toEqual([]);
    expect(existsSync(join(one.modelsDir, '.incoming/org--model.gthread'))).toBe(false);
  });
});
