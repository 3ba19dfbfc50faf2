/** Files that a finished Job brought and that its node does not hold any more, as the node's agent says. */
import { describe, expect, it } from 'vitest';
import type { GpuOccupant } from '../../../api/gpu.ts';
import type { ModelSpecInput } from '../../../api/model.ts';
import { redoAfterMs } from '../../../controller/decide/lost-files.ts';
import { plan } from '../../../controller/decide/plan.ts';
import type { Snapshot } from '../../../controller/decide/snapshot.ts';
import { gpu, model } from './builders.ts';
import { PlainCluster } from './plain-cluster.ts';

type Lost = NonNullable<GpuOccupant['lostFiles']>;
const hourMs = 3_600_000;
const folder = 'org--a/c0ffee';
const form = `${folder}.gthread-1`;
const fetched = { commit: 'c0ffee', path: `/mnt/models/${folder}`, bytes: 1000 };
const converted = { ...fetched, gthread: { path: `/mnt/models/${form}`, bytes: 2000 } };

/** A Model that serves, an hour after its files came. */
function serving(spec: Partial<ModelSpecInput> = {}, names = ['a']) {
  const of = (name: string) => model(name, { modelName: 'org/a', vramPerGPU: '8Gi', ...spec });
  const cluster = new PlainCluster({ gpus: [gpu('n1', 0)], models: names.map(of) });
  cluster.settle();
  cluster.fetchesEnd(spec.loadFormat === 'gthread' ? converted : fetched);
  cluster.settle();
  tell(cluster, names, {});
  cluster.settle();
  cluster.nowMs += hourMs;
  return cluster;
}
function tell(cluster: PlainCluster, names: string[], more: Partial<GpuOccupant>): void {
  for (const name of names)
    for (const pod of cluster.pods(name))
      cluster.engineIs(pod, 'serving', { awakeBytes: 8 * 2 ** 30, ...more });
}
const lost = (cluster: PlainCluster, more: Partial<Lost> = {}): { lostFiles: Lost } => ({
  lostFiles: {
    path: folder,
    state: 'Missing',
    since: new Date(cluster.nowMs).toISOString(),
    message: 'they are not on the disk',
    ...more,
  },
});
const uids = (cluster: PlainCluster) => cluster.jobs().map(({ metadata }) => metadata.uid);
const created = (cluster: PlainCluster) =>
  cluster.log.filter(({ type, kind }) => type === 'create' && kind === 'jobs').length;
const wakeAtMs = (cluster: PlainCluster) =>
  plan(cluster.objects as unknown as Snapshot, cluster.memory, cluster.settings, cluster.nowMs).wakeAtMs;

describe('files that are lost', () => {
  it('are brought again at once, and it is said why; what runs goes on', () => {
    const cluster = serving();
    const [before, pods] = [uids(cluster), cluster.pods()];
    tell(cluster, ['a'], lost(cluster));
    cluster.settle();
    expect(uids(cluster)).not.toEqual(before);
    expect(uids(cluster)).toHaveLength(1);
    expect(cluster.condition('Staged')).toMatchObject({
      status: 'False',
      reason: 'Fetching',
      message: expect.stringContaining('they are not on the disk'),
    });
    expect(cluster.pods()).toEqual(pods);
    expect(cluster.phase()).toBe('Ready');
    const again = uids(cluster);
    cluster.nowMs += 60_000;
    cluster.fetchesEnd(fetched);
    tell(cluster, ['a'], {});
    cluster.settle();
    expect(uids(cluster)).toEqual(again);
    expect(cluster.condition('Staged')?.status).toBe('True');
    expect(cluster.pods()).toEqual(pods);
  });

  it('of several replicas and Models come by one Job', () => {
    const cluster = serving({ replicas: 2 }, ['a', 'b']);
    const before = uids(cluster);
    expect(before).toHaveLength(1);
    tell(cluster, ['a', 'b'], lost(cluster));
    cluster.settle();
    expect(created(cluster)).toBe(2);
    expect(uids(cluster)).toHaveLength(1);
    for (const key of ['default/a', 'default/b'])
      expect(cluster.condition('Staged', key)).toMatchObject({ status: 'False', reason: 'Fetching' });
  });

  it('although a Job has brought them are told, and tried ever more seldom', () => {
    const cluster = serving();
    const word = lost(cluster);
    const endMs = cluster.nowMs + 48 * hourMs;
    while (cluster.nowMs < endMs) {
      tell(cluster, ['a'], word);
      cluster.settle();
      cluster.nowMs += 5_000;
      cluster.fetchesEnd(fetched);
      cluster.settle();
      cluster.nowMs = Math.min(wakeAtMs(cluster) ?? endMs, endMs);
    }
    expect(cluster.condition('Staged')).toMatchObject({
      status: 'False',
      reason: 'FilesMissing',
      message: expect.stringContaining('they are not on the disk'),
    });
    expect(cluster.phase()).toBe('Ready');
    expect(created(cluster)).toBeGreaterThan(4);
    expect(created(cluster)).toBeLessThan(12);
    expect(wakeAtMs(cluster)).toBeLessThanOrEqual(cluster.nowMs + redoAfterMs.most);
  });

  it('that are lost again and again do not make a Job each moment', () => {
    const cluster = serving();
    tell(cluster, ['a'], lost(cluster));
    cluster.settle();
    cluster.nowMs += 5_000;
    cluster.fetchesEnd(fetched);
    tell(cluster, ['a'], {});
    cluster.settle();
    cluster.nowMs += 1_000;
    tell(cluster, ['a'], lost(cluster));
    cluster.settle();
    expect(created(cluster)).toBe(2);
    expect(wakeAtMs(cluster)).toBe(cluster.nowMs - 1_000 + redoAfterMs.anew);
    cluster.nowMs += redoAfterMs.anew;
    cluster.settle();
    expect(created(cluster)).toBe(3);
  });

  const others: [string, Partial<ModelSpecInput>, Partial<Lost>][] = [
    ['of another commit', {}, { path: 'org--a/beef' }],
    ['in a form that this Job does not write', {}, { path: form }],
  ];
  it.each(others)('%s are not this Job’s', (_, spec, word) => {
    const cluster = serving(spec);
    const before = uids(cluster);
    tell(cluster, ['a'], lost(cluster, word));
    cluster.settle();
    expect(uids(cluster)).toEqual(before);
    expect(cluster.condition('Staged')?.status).toBe('True');
  });

  it('are not believed of an agent that is silent: it cannot say that they are back', () => {
    const cluster = serving();
    const before = uids(cluster);
    const [agent] = [...cluster.objects.ownPods.values()].filter(({ metadata }) =>
      /agent/.test(metadata.name),
    );
    agent!.status = { phase: 'Running', conditions: [{ type: 'Ready', status: 'False' }] };
    cluster.settle();
    cluster.nowMs += hourMs;
    tell(cluster, ['a'], lost(cluster));
    cluster.settle();
    expect(uids(cluster)).toEqual(before);
  });

  it('or damaged in the gthread form are converted again, by a Job that does not believe the form', () => {
    const cluster = serving({ loadFormat: 'gthread' });
    const env = () => JSON.stringify(cluster.jobs()[0]);
    expect(env()).not.toContain('CHECK_FORM');
    const word = lost(cluster, { path: form, state: 'Damaged', message: 'chunk 3 is wrong' });
    tell(cluster, ['a'], word);
    cluster.settle();
    expect(created(cluster)).toBe(2);
    expect(env()).toContain('{"name":"CHECK_FORM","value":"true"}');
    expect(cluster.condition('Converted')).toMatchObject({ status: 'False', reason: 'Fetching' });
    cluster.nowMs += 1_000;
    cluster.fetchesEnd(converted);
    cluster.settle();
    const told = { status: 'False', reason: 'FilesDamaged' };
    expect(cluster.condition('Converted')).toMatchObject(told);
    expect(cluster.condition('Converted')?.message).toContain('chunk 3 is wrong');
    expect(cluster.model().status?.conversion).toMatchObject({ state: 'Failed' });
    expect(cluster.condition('Staged')).toMatchObject({ status: 'False', reason: 'NotConverted' });
    tell(cluster, ['a'], {});
    cluster.settle();
    expect(cluster.condition('Converted')?.status).toBe('True');
  });
});
