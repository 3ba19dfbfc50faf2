/** The clean-up: what no Model uses is found and, when told so, removed; what anybody may need stays. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { staleMs } from '../../../converter/act/lock.ts';
import { type CleanOptions, clean } from '../../../converter/cleaning.ts';
import { parseModels } from '../../../converter/decide/unused.ts';

const [a, b] = ['a'.repeat(40), 'b'.repeat(40)];
const made: string[] = [];
afterAll(() => {
  for (const folder of made) rmSync(folder, { recursive: true, force: true });
});

/** A models folder with these files, each of 1 MiB. */
function disk(...paths: string[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'gt-clean-'));
  made.push(folder);
  for (const path of paths) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), path.includes('/refs/') ? `${a}\n` : Buffer.alloc(2 ** 20));
  }
  return folder;
}
const upstream = (folder: string, commit: string) => `${folder}/${commit}/.greenthread.json`;
const form = (folder: string, commit: string, version = 1) =>
  `${folder}/${commit}.gthread-${version}/manifest.pb`;
const models = (...given: { spec: object; status?: object }[]) =>
  parseModels(JSON.stringify({ items: given.map((one) => ({ kind: 'Model', ...one })) }));
const model = (modelName: string, more: object = {}, status: object = {}) => ({
  spec: { modelName, ...more },
  status,
});

async function run(modelsDir: string, wanted: ReturnType<typeof models>, more: Partial<CleanOptions> = {}) {
  const lines: string[] = [];
  const removed = await clean({
    modelsDir,
    models: wanted,
    pods: [],
    isRemoving: false,
    isForAll: false,
    print: (line) => void lines.push(line),
    signal: new AbortController().signal,
    nowMs: Date.now(),
    ...more,
  });
  return { lines, removed };
}
const unusedOf = (lines: string[]) =>
  lines.flatMap((line) => / {2}unused {2}([^:]+):/.exec(line)?.[1] ?? []).sort();

describe('the clean-up', () => {
  const one = [upstream('org--x', a), form('org--x', a), 'org--x/refs/main'];

  it.each<[string, string[], ReturnType<typeof model>[], string[]]>([
    ['files of a Model', [upstream('org--x', a), 'org--x/refs/main'], [model('org/x')], []],
    ['files of no Model', one, [model('org/y')], [`org--x/${a}`, `org--x/${a}.gthread-1`]],
    ['the form where no Model wants it', one, [model('org/x')], [`org--x/${a}.gthread-1`]],
    ['the form where one does', one, [model('org/x'), model('org/x', { loadFormat: 'gthread' })], []],
    [
      'a form of another release',
      [...one, form('org--x', a, 2)],
      [model('org/x', { loadFormat: 'gthread' })],
      [`org--x/${a}.gthread-2`],
    ],
    [
      'a commit that a revision was once',
      [...one, upstream('org--x', b)],
      [model('org/x', { loadFormat: 'gthread' })],
      [`org--x/${b}`],
    ],
    [
      'another modelName that a Model names by its commit: a draft, say',
      [upstream('org--draft', b), upstream('org--draft', a)],
      [model('org/x', { extraArgs: [`--speculative-config={"model":"/mnt/models/org--draft/${b}"}`] })],
      [`org--draft/${a}`],
    ],
    ['a commit named by a Model', [upstream('org--x', b)], [model('org/x', { revision: b })], []],
    [
      'commits of a revision never asked for here',
      [upstream('org--x', b)],
      [model('org/x', { revision: 'v2' })],
      [],
    ],
    [
      'what is unfinished of a Model',
      [`.incoming/org--x/${a}/m`, `.incoming/org--x.gthread/${a}/w`],
      [model('org/x')],
      [],
    ],
    [
      "what is unfinished of one whose name ends as another's folder does",
      [
        `.incoming/org--x.gthread+/${a}/m.greenthread-part`,
        `.incoming/org--x.gthread/${a}.gthread-1/weights`,
      ],
      [model('org/x.gthread')],
      ['.incoming/org--x.gthread'],
    ],
    [
      'what is unfinished of none',
      [`.incoming/org--x/${a}/m`, `.incoming/org--x.gthread/${a}/w`],
      [model('org/y')],
      ['.incoming/org--x', '.incoming/org--x.gthread'],
    ],
    [
      "somebody else's files",
      ['org--x/mine/file', `org--x/${a}/no-manifest`, 'file', '.greenthread/z'],
      [model('org/y')],
      [],
    ],
  ])('of %s', async (_, paths, wanted, unused) => {
    const modelsDir = disk(...paths);
    const { lines } = await run(modelsDir, models(...wanted));
    expect(unusedOf(lines)).toEqual(unused.sort());
    for (const path of paths) expect(existsSync(join(modelsDir, path))).toBe(true);
  });

  it('tells sizes and the sum, and removes when told so', async () => {
    const modelsDir = disk(...one, upstream('org--y', b));
    const wanted = models(model('org/y', { revision: b }));
    expect((await run(modelsDir, wanted)).lines.at(-1)).toBe(
      '0.0 GiB in 2 folders are used by no Model; --remove removes them',
    );
    const { removed } = await run(modelsDir, wanted, { isRemoving: true });
    expect(removed).toBe(2 * 2 ** 20);
    expect(readdirSync(join(modelsDir, 'org--x'))).toEqual(['refs']);
    expect(existsSync(join(modelsDir, upstream('org--y', b)))).toBe(true);
    expect(readdirSync(join(modelsDir, '.incoming'))).toEqual([]);
  });

  it('leaves a model alone on which a Job works, and takes what a dead Job has left', async () => {
    const modelsDir = disk(...one, '.incoming/org--x.lock', `.incoming/org--x/${b}/m`);
    expect((await run(modelsDir, models(model('org/y')), { isRemoving: true })).removed).toBe(0);
    const past = new Date(Date.now() - staleMs - 1000);
    utimesSync(join(modelsDir, '.incoming/org--x.lock'), past, past);
    expect((await run(modelsDir, models(model('org/y')), { isRemoving: true })).removed).toBe(3 * 2 ** 20);
  });

  it('does not remove all because the list is empty', async () => {
    const modelsDir = disk(...one);
    await expect(run(modelsDir, [], { isRemoving: true })).rejects.toThrow('add --all');
    expect((await run(modelsDir, [], { isRemoving: true, isForAll: true })).removed).toBe(2 * 2 ** 20);
  });

  it.each([
    ['', 'no JSON'],
    ['{}', 'no list of items'],
    ['{"items": [{"kind": "Pod", "spec": {}}]}', 'no Model'],
    ['{"items": [null]}', 'no Model'],
  ])('takes no other text for a list of Models: %s', (text, words) => {
    expect(() => parseModels(text)).toThrow(words);
  });
});
