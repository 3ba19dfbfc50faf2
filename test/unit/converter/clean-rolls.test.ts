/** While a Model rolls, its old pod's files are in use though neither spec nor status names them: pods as the controller makes them. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { ModelSpecInput } from '../../../api/model.ts';
import { clean } from '../../../converter/cleaning.ts';
import { parseModels, parsePods } from '../../../converter/decide/unused.ts';
import { gpu, model } from '../controller/builders.ts';
import { PlainCluster } from '../controller/plain-cluster.ts';

const [a, b] = ['a'.repeat(40), 'b'.repeat(40)];
const modelsDir = mkdtempSync(join(tmpdir(), 'gt-clean-rolls-'));
afterAll(() => rmSync(modelsDir, { recursive: true, force: true }));

/** A Model whose one pod serves on commit a of org/a. */
function served(loadFormat: 'auto' | 'gthread' = 'auto'): PlainCluster {
  const given = model('a', { modelName: 'org/a', revision: 'v1', loadFormat });
  const cluster = new PlainCluster({ gpus: [gpu('n1', 0), gpu('n1', 1)], models: [given] });
  cluster.settle();
  fetched(cluster, 'org--a', a, loadFormat === 'gthread');
  cluster.engineIs(cluster.pods()[0]!, 'serving', { awakeBytes: 2 ** 30 });
  cluster.settle();
  return cluster;
}

function fetched(cluster: PlainCluster, folder: string, commit: string, isGthread = false): void {
  const path = `/mnt/models/${folder}/${commit}`;
  const gthread = { path: `${path}.gthread-1`, bytes: 9, tensors: 1, written: 9 };
  cluster.fetchesEnd({ commit, path, bytes: 9, files: 1, downloaded: 1, ...(isGthread && { gthread }) });
  cluster.settle();
}

/** Another spec, whose files are fetched; `boot`: the new pod is there and its engine fails. */
function rolled(cluster: PlainCluster, spec: Partial<ModelSpecInput>, boot?: string): PlainCluster {
  cluster.edit(spec);
  cluster.settle();
  if (boot === undefined) return cluster;
  const old = cluster.pods()[0]!.metadata.name;
  fetched(cluster, boot, b);
  cluster.podStatus(cluster.pods().find(({ metadata }) => metadata.name !== old)!, {
    phase: 'Running',
    conditions: [{ type: 'Ready', status: 'False' }],
    containerStatuses: [
      { name: 'engine', restartCount: 9, state: { waiting: { reason: 'CrashLoopBackOff' } } },
    ],
  });
  cluster.settle();
  expect(cluster.condition('Available')?.reason).toBe('RollFailed');
  expect(cluster.pods()).toHaveLength(2);
  return cluster;
}

const upstream = `org--a/${a}/.greenthread.json`;
const form = `org--a/${a}.gthread-1/manifest.pb`;
const idle = `org--a/${'c'.repeat(40)}/.greenthread.json`;

async function cleaned(cluster: PlainCluster): Promise<string[]> {
  for (const path of [upstream, form, idle, 'org--a/refs/v1', 'org--a/refs/v2']) {
    mkdirSync(dirname(join(modelsDir, path)), { recursive: true });
    writeFileSync(join(modelsDir, path), path.endsWith('v1') ? a : b);
  }
  const printed = (objects: Iterable<object>) => JSON.stringify({ items: [...objects] });
  await clean({
    modelsDir,
    models: parseModels(printed(cluster.objects.models.values())),
    pods: parsePods(printed(cluster.objects.pods.values())),
    isRemoving: true,
    isForAll: false,
    print: () => {},
    signal: new AbortController().signal,
    nowMs: Date.now(),
  });
  return [upstream, form, idle].filter((path) => existsSync(join(modelsDir, path)));
}

describe('the clean-up while a Model rolls', () => {
  it.each<[string, () => PlainCluster, string[]]>([
    ['its new modelName is fetched', () => rolled(served(), { modelName: 'org/b' }), [upstream]],
    ['its new revision is fetched', () => rolled(served(), { revision: 'v2' }), [upstream]],
    ['its pod reads the form', () => rolled(served('gthread'), { modelName: 'org/b' }), [upstream, form]],
    [
      'the roll has failed on another modelName',
      () => rolled(served(), { modelName: 'org/b' }, 'org--b'),
      [upstream],
    ],
    [
      'the roll has failed on another revision',
      () => rolled(served(), { revision: 'v2' }, 'org--a'),
      [upstream],
    ],
    [
      'loadFormat goes back to auto, and its pod reads the form still',
      () => rolled(served('gthread'), { loadFormat: 'auto', modelName: 'org/b' }),
      [upstream, form],
    ],
  ])('keeps what the old pod runs on: %s', async (_, cluster, kept) => {
    expect(await cleaned(cluster())).toEqual(kept);
  });

  it('takes them once the old pod has gone', async () => {
    const cluster = rolled(served('gthread'), { modelName: 'org/b' });
    for (const key of cluster.objects.pods.keys()) cluster.objects.pods.delete(key);
    expect(await cleaned(cluster)).toEqual([]);
  });

  it('believes no pod of which it does not know what it reads', () => {
    const pod = { kind: 'Pod', metadata: { namespace: 'x', name: 'odd' }, spec: {} };
    expect(() => parsePods(JSON.stringify({ items: [pod] }))).toThrow('pod x/odd names no files');
    expect(() => parsePods('{"items": [{"kind": "Model"}]}')).toThrow('no Pod');
    expect(() => parsePods('')).toThrow('no JSON');
  });
});
