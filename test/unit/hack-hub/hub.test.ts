/** The hub stub speaks as the real hub does, where the fetch listens. */
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type ListFileEntry, listFiles, modelInfo } from '@huggingface/hub';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Hub, type Stats, startHub } from '../../../hack/hub/hub.ts';
import { kindOf, safetensors, writeModel } from '../../../hack/hub/models.ts';

const id = 'meta-llama/Llama-3.1-8B-Instruct';
let root: string;
let hub: Hub;
let commit: string;

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'gt-hub-'));
  await writeModel(root, id);
  await writeModel(root, 'org/gated');
  writeFileSync(
    join(root, 'org/gated/.hub.json'),
    '{"gated":true,"tokens":["hf_good"],"refusedTokens":["hf_no"]}',
  );
  hub = await startHub({ files: root, pageSize: 2 });
  commit = (await json<{ sha: string }>(`${hub.url}/api/models/${id}/revision/main`)).sha;
});
afterAll(async () => {
  await hub.close();
  rmSync(root, { recursive: true });
});

const json = async <T>(url: string) => (await (await fetch(url)).json()) as T;
const weights = () => `${hub.url}/${id}/resolve/${commit}/model.safetensors`;
const stored = () => readFileSync(join(root, id, 'model.safetensors'));

describe('the hub stub', () => {
  it('gives a revision the hash of its contents as commit', async () => {
    const info = await modelInfo({ name: id, hubUrl: hub.url, revision: 'main', additionalFields: ['sha'] });
    expect(info.sha).toMatch(/^[0-9a-f]{40}$/);
    const before = await fetch(`${hub.url}/api/models/org/moving/revision/main`);
    expect(before.status).toBe(401);
    await writeModel(root, 'org/moving');
    const shas = [];
    for (const text of ['{}', '{"a":1}']) {
      mkdirSync(join(root, 'org/moving'), { recursive: true });
      writeFileSync(join(root, 'org/moving/config.json'), text);
      shas.push(
        (
          await modelInfo({
            name: 'org/moving',
            hubUrl: hub.url,
            additionalFields: ['sha'],
            revision: 'main',
          })
        ).sha,
      );
    }
    expect(shas[0]).not.toBe(shas[1]);
  });

  it('lists files page by page, large ones with their sha256', async () => {
    const files: ListFileEntry[] = [];
    for await (const file of listFiles({ repo: id, hubUrl: hub.url, recursive: true, revision: commit }))
      files.push(file);
    expect(files.map(({ path }) => path)).toEqual([
      'README.md',
      'config.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    expect(files[2]!.lfs!.oid).toBe(createHash('sha256').update(stored()).digest('hex'));
    const config = readFileSync(join(root, id, 'config.json'));
    expect(files[1]!.oid).toBe(
      createHash('sha1').update(`blob ${config.length}\0`).update(config).digest('hex'),
    );
  });

  it('redirects a large file to its CDN and serves ranges of it', async () => {
    const first = await fetch(weights(), { redirect: 'manual' });
    expect(first.status).toBe(302);
    expect(first.headers.get('location')).toMatch(/^\/cdn\//);
    const part = await fetch(weights(), { headers: { range: 'bytes=100-199' } });
    expect(part.status).toBe(206);
    expect(part.headers.get('content-range')).toBe(`bytes 100-199/${stored().length}`);
    expect(Buffer.from(await part.arrayBuffer())).toEqual(stored().subarray(100, 200));
    expect((await fetch(weights(), { headers: { range: 'bytes=99999999-' } })).status).toBe(416);
  });

  it('counts what was downloaded, and forgets it on demand', async () => {
    hub.resetStats();
    await (await fetch(weights())).arrayBuffer();
    await fetch(weights(), { method: 'HEAD' });
    const stats = await json<Stats>(`${hub.url}/stats`);
    expect(stats.models[id]).toEqual({
      downloads: 1,
      bytes: stored().length,
      files: { 'model.safetensors': 1 },
    });
    await fetch(`${hub.url}/stats/reset`, { method: 'POST' });
    expect((await json<Stats>(`${hub.url}/stats`)).models).toEqual({});
  });

  it.each([
    [undefined, 401],
    ['hf_no', 403],
    ['hf_good', 200],
  ])('answers for a gated file with token %s: %i', async (token, status) => {
    const { sha } = await json<{ sha: string }>(`${hub.url}/api/models/org/gated/revision/main`);
    const answer = await fetch(`${hub.url}/org/gated/resolve/${sha}/config.json`, {
      headers: token ? { authorization: `Bearer ${token}` } : {},
    });
    expect(answer.status).toBe(status);
    expect(answer.headers.get('x-error-code')).toBe(status === 200 ? null : 'GatedRepo');
  });

  it('fails as told: once with 503, truncated, corrupt, without ranges', async () => {
    hub.faults.add({ kind: 'status', status: 503, retryAfterSeconds: 7, path: 'config.json' });
    const config = `${hub.url}/${id}/resolve/${commit}/config.json`;
    const refused = await fetch(config);
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '7']);
    expect((await fetch(config)).status).toBe(200);
    await fetch(`${hub.url}/faults`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify([{ kind: 'truncated', bytes: 1000, model: id }]),
    });
    await expect((await fetch(weights())).arrayBuffer()).rejects.toThrow();
    hub.faults.add({ kind: 'corrupt' }, { kind: 'noRange' });
    expect(Buffer.from(await (await fetch(weights())).arrayBuffer()).equals(stored())).toBe(false);
    expect((await fetch(weights(), { headers: { range: 'bytes=5-' } })).status).toBe(200);
  });
});

describe('a generated model', () => {
  it('has a safetensors file whose header accounts for every byte', () => {
    const file = safetensors('seed', 100_000);
    const length = Number(file.readBigUInt64LE(0));
    const header = JSON.parse(file.subarray(8, 8 + length).toString()) as Record<
      string,
      { data_offsets?: number[] }
    >;
    const ends = Object.values(header).map((tensor) => tensor.data_offsets?.[1] ?? 0);
    expect(Math.max(...ends)).toBe(file.length - 8 - length);
    expect(safetensors('other', 100_000).equals(file)).toBe(false);
  });

  it.each([
    ['openai/whisper-large-v3-turbo', 'asr'],
    ['BAAI/bge-m3', 'embedding'],
    ['BAAI/bge-reranker-v2-m3', 'reranker'],
    ['Qwen/Qwen2.5-0.5B-Instruct', 'chat'],
  ])('%s is made as %s', (name, kind) => {
    expect(kindOf(name)).toBe(kind);
  });
});

describe('the commands', () => {
  const command = (name: string) => fileURLToPath(new URL(`../../../hack/hub/${name}`, import.meta.url));

  it('make models, serve them and end on SIGTERM', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'gt-hub-'));
    const made = execFileSync(process.execPath, [
      command('make-models.ts'),
      folder,
      'a/b',
      '--sim',
      '{"bootSeconds":1}',
    ]);
    expect(String(made)).toBe('a/b\n');
    const child = spawn(process.execPath, [command('main.ts'), '--listen', '127.0.0.1:0', '--files', folder]);
    const url = String(await new Promise((resolve) => child.stdout.once('data', resolve))).trim();
    expect(await json(`${url}/health`)).toEqual({ models: ['a/b'] });
    expect(await json(`${url}/a/b/resolve/main/sim.json`)).toEqual({ bootSeconds: 1 });
    child.kill('SIGTERM');
    expect(await new Promise((resolve) => child.on('exit', resolve))).toBe(0);
    rmSync(folder, { recursive: true });
  });
});
