/** Files on their way: fetched, converted, counted in bytes, and begun again as soon as what was wrong has changed. */
import { describe, expect, it } from 'vitest';
import { modelStatus } from '../../../api/model.ts';
import { accessRetryMs, fetchJobName, wordlessMs } from '../../../controller/decide/fetch.ts';
import { plan } from '../../../controller/decide/plan.ts';
import { projected } from '../../../controller/decide/projection.ts';
import type { ControllerSettings } from '../../../controller/decide/settings.ts';
import type { Snapshot } from '../../../controller/decide/snapshot.ts';
import { gpu, model, settings } from './builders.ts';
import { PlainCluster } from './plain-cluster.ts';

const of = (loadFormat: 'auto' | 'gthread', given: Partial<ControllerSettings> = {}) => {
  const cluster = new PlainCluster(
    { gpus: [gpu('n1', 0)], models: [model('a', { modelName: 'org/a', loadFormat })] },
    given,
  );
  cluster.settle();
  return cluster;
};
const fetched = { commit: 'c0ffee', path: '/mnt/models/org--a/c0ffee', bytes: 1000, files: 3, downloaded: 3 };
const converted = {
  ...fetched,
  gthread: { path: '/mnt/models/org--a/c0ffee.gthread-1', bytes: 2 ** 30, tensors: 9, written: 2 ** 30 },
};
const jobOf = (cluster: PlainCluster) => cluster.jobs()[0]!;
const words = (cluster: PlainCluster) =>
  (jobOf(cluster) as unknown as { spec: { template: { spec: { containers: { command: string[] }[] } } } })
    .spec.template.spec.containers[0]!.command;

/** What the Job has written into the ConfigMap. */
function tell(cluster: PlainCluster, text: string): void {
  cluster.objects.progress.set('greenthread/greenthread-progress', {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name: 'greenthread-progress', namespace: 'greenthread' },
    data: { [jobOf(cluster).metadata.name]: text },
  });
}
describe('a Model of the gthread form', () => {
  it('is Converting until its form is there, then comes up', () => {
    const cluster = of('gthread');
    expect(words(cluster)).toEqual(['node', '/app/converter.js', 'convert']);
    expect(cluster.phase()).toBe('Converting');
    expect(cluster.condition('Converted')).toMatchObject({ status: 'False', reason: 'Fetching' });
    tell(cluster, JSON.stringify({ state: 'Converting', bytes: 5, totalBytes: 9 }));
    cluster.settle();
    expect(cluster.condition('Converted')).toMatchObject({ status: 'False', reason: 'Converting' });
    expect(cluster.pods()).toEqual([]);
    cluster.fetchesEnd(converted);
    cluster.settle();
    expect(cluster.condition('Converted')).toMatchObject({
      status: 'True',
      reason: 'Converted',
      message: 'the gthread form of commit c0ffee, 1.0 GiB is on disk',
    });
    expect(cluster.condition('Staged')?.status).toBe('True');
    expect(cluster.model().status?.conversion).toEqual({
      state: 'Converted',
      bytes: 2 ** 30,
      totalBytes: 2 ** 30,
    });
    expect(cluster.pods()).toHaveLength(1);
    expect(cluster.phase()).toBe('Staging');
  });

  it('whose files did not agree says so once it is converted', () => {
    const cluster = of('gthread');
    const warning = '2 tensors are in two files';
    cluster.fetchesEnd({ ...converted, gthread: { ...converted.gthread, warning } });
    cluster.settle();
    const message = `the gthread form of commit c0ffee, 1.0 GiB is on disk; ${warning}`;
    expect(cluster.condition('Converted')).toMatchObject({ status: 'True', message });
    // The result is kept, its pod is not.
    cluster.objects.ownPods.clear();
    cluster.settle();
    expect(cluster.condition('Converted')).toMatchObject({ status: 'True', message });
  });

  it('that cannot be converted says so once, and comes up with loadFormat auto', () => {
    const cluster = of('gthread');
    const fault = { reason: 'NotConvertible', message: 'no safetensors: set spec.loadFormat to auto' };
    cluster.fetchesEnd({ error: { ...fault, part: 'Converting' } }, 'Failed');
    cluster.settle();
    expect(cluster.phase()).toBe('Failed');
    expect(cluster.condition('Converted')).toMatchObject({ status: 'False', ...fault });
    expect(cluster.condition('Staged')).toMatchObject({ status: 'False', reason: 'NotConverted' });
    expect(cluster.model().status?.conversion).toEqual({ state: 'Failed', message: fault.message });
    cluster.edit({ loadFormat: 'auto' });
    cluster.comeUp();
    expect(cluster.phase()).toBe('Ready');
  });

  it('that cannot be fetched is told under Staged', () => {
    const cluster = of('gthread');
    cluster.fetchesEnd({ error: { reason: 'TokenNeeded', message: 'set a token' } }, 'Failed');
    cluster.settle();
    expect(cluster.condition('Staged')).toMatchObject({ status: 'False', reason: 'TokenNeeded' });
    expect(cluster.condition('Converted')).toMatchObject({ status: 'False', reason: 'Fetching' });
  });

  it('has a Job of its own beside one of loadFormat auto', () => {
    const [auto, gthread] = [model('a'), model('a', { loadFormat: 'gthread' })];
    expect(fetchJobName(auto.spec, 'n1')).toMatch(/^gt-fetch-/);
    expect(fetchJobName(gthread.spec, 'n1')).toMatch(/^gt-convert-/);
  });

  it('made of one of loadFormat auto keeps the old pod while it converts, then rolls', () => {
    const cluster = of('auto');
    cluster.comeUp();
    const [old] = cluster.pods();
    cluster.edit({ loadFormat: 'gthread' });
    cluster.settle();
    expect(cluster.jobs().map(({ metadata }) => metadata.name)).toEqual([
      fetchJobName(cluster.model().spec, 'n1'),
    ]);
    expect(cluster.pods()).toEqual([old]);
    cluster.fetchesEnd(converted);
    cluster.settle();
    expect(cluster.pods()).toHaveLength(2);
  });
});

describe('bytes', () => {
  it('of a fetch are told as the Job tells them', () => {
    const cluster = of('auto');
    expect(cluster.model().status?.conversion).toEqual({
      state: 'Fetching',
      message: 'fetching org/a@main to n1',
    });
    tell(cluster, JSON.stringify({ state: 'Fetching', bytes: 3, totalBytes: 10 }));
    cluster.settle();
    expect(cluster.phase()).toBe('Staging');
    expect(cluster.model().status?.conversion).toMatchObject({ state: 'Fetching', bytes: 3, totalBytes: 10 });
  });

  it.each([
    ['no JSON'],
    ['{"bytes": -1, "totalBytes": 5}'],
    ['{"bytes": 7, "totalBytes": 5}'],
    ['{"bytes": 1}'],
  ])('that make no sense are not told: %s', (text) => {
    const cluster = of('auto');
    tell(cluster, text);
    cluster.settle();
    expect(cluster.model().status?.conversion).not.toHaveProperty('bytes');
  });

  it('are not told where the chart names no ConfigMap', () => {
    const cluster = of('auto', { progress: null });
    expect(JSON.stringify(jobOf(cluster))).toContain('"automountServiceAccountToken":false');
    expect(JSON.stringify(jobOf(cluster))).not.toContain('PROGRESS');
  });
});

describe('files that were brought', () => {
  const uidOf = (cluster: PlainCluster) => jobOf(cluster).metadata.uid;
  const done = () => {
    const cluster = of('auto');
    cluster.comeUp();
    return cluster;
  };
  const moves: [string, (cluster: PlainCluster) => void][] = [
    ['another models path', (cluster) => Object.assign(cluster.settings, { modelsPath: '/data/big' })],
    [
      'another Node of the same name',
      (cluster) => {
        cluster.node('n1').metadata.creationTimestamp = new Date(cluster.nowMs - 60_000).toISOString();
      },
    ],
  ];

  it.each(moves)('are not believed to be on %s; what runs goes on', (_, move) => {
    const cluster = done();
    const [before, [pod]] = [uidOf(cluster), cluster.pods()];
    cluster.nowMs += 120_000;
    move(cluster);
    cluster.settle();
    expect(uidOf(cluster)).not.toBe(before);
    expect(cluster.condition('Staged')).toMatchObject({ status: 'False', reason: 'Fetching' });
    expect(cluster.pods()).toEqual([pod]);
    expect(cluster.phase()).toBe('Ready');
    const again = uidOf(cluster);
    cluster.fetched();
    cluster.settle();
    expect(uidOf(cluster)).toBe(again);
    expect(cluster.condition('Staged')?.status).toBe('True');
  });

  it('are not fetched on to the old place either', () => {
    const cluster = of('auto');
    const before = uidOf(cluster);
    moves[0]![1](cluster);
    cluster.settle();
    expect(uidOf(cluster)).not.toBe(before);
    expect(JSON.stringify(jobOf(cluster))).toContain('/data/big');
  });

  it('stay believed when the same Node is told again, and by what the cache keeps of a Job', () => {
    const cluster = done();
    const before = uidOf(cluster);
    cluster.node('n1').metadata.creationTimestamp = new Date(cluster.nowMs - 60_000).toISOString();
    for (const [key, job] of cluster.objects.jobs) cluster.objects.jobs.set(key, projected('jobs', job));
    cluster.settle();
    expect(uidOf(cluster)).toBe(before);
    moves[0]![1](cluster);
    cluster.settle();
    expect(uidOf(cluster)).not.toBe(before);
  });

  it.each([[{}], [fetched]])(
    'without the word that is needed are brought again after a while: %j',
    (words) => {
      const cluster = of('gthread');
      const before = uidOf(cluster);
      cluster.fetchesEnd(words);
      cluster.settle();
      expect(uidOf(cluster)).toBe(before);
      const { wakeAtMs } = plan(
        cluster.objects as unknown as Snapshot,
        cluster.memory,
        cluster.settings,
        cluster.nowMs,
      );
      expect(wakeAtMs).toBe(cluster.nowMs + wordlessMs);
      expect(cluster.condition('Staged')?.message).toContain('ended without a result');
      cluster.nowMs += wordlessMs;
      cluster.settle();
      expect(uidOf(cluster)).not.toBe(before);
      cluster.fetchesEnd(converted);
      cluster.settle();
      expect(cluster.condition('Staged')?.status).toBe('True');
    },
  );
});

describe('a long refusal', () => {
  const long = 'x'.repeat(10_000);
  const bounded = (cluster: PlainCluster) => {
    const { message } = cluster.model().status!.conversion!;
    expect(modelStatus.safeParse(cluster.model().status).error).toBeUndefined();
    expect(message).toContain('xxx');
  };

  it('of the Job itself is cut to what the API takes', () => {
    const cluster = new PlainCluster({ gpus: [gpu('n1', 0)], models: [model('a')] });
    cluster.refuse = { create: 'jobs', message: long };
    cluster.settle();
    expect(cluster.phase()).toBe('Failed');
    bounded(cluster);
  });

  it('of its pod by the scheduler as well', () => {
    const cluster = of('auto');
    cluster.fetchAttemptEnds({});
    const pod = [...cluster.objects.ownPods.values()].at(-1)!;
    pod.status = { conditions: [{ type: 'PodScheduled', status: 'False', message: long }] };
    cluster.settle();
    bounded(cluster);
  });
});

describe('a fetch that failed', () => {
  const refused = { error: { reason: 'TokenRefused', message: 'the hub refuses our token' } };
  const set =
    (change: Partial<ControllerSettings>) =>
    (cluster: PlainCluster): void => {
      Object.assign(cluster.settings, change);
    };
  const mended: [string, (cluster: PlainCluster) => void][] = [
    ['token', set({ huggingFace: { ...settings.huggingFace, tokenVersion: '8' } })],
    ['endpoint', set({ huggingFace: { ...settings.huggingFace, endpoint: 'http://hub' } })],
    ['image', set({ image: 'localhost/greenthread:2' })],
    ['proxy', set({ wayOut: { proxy: 'http://proxy', noProxy: '', caConfigMap: '' } })],
    ['trust', set({ wayOut: { proxy: '', noProxy: '', caConfigMap: 'corp-ca' } })],
  ];

  it.each(mended)('begins again at once with another %s', (_, mend) => {
    const cluster = of('auto');
    const before = jobOf(cluster).metadata.uid;
    cluster.fetchesEnd(refused, 'Failed');
    cluster.settle();
    mend(cluster);
    cluster.settle();
    expect(cluster.jobs()).toHaveLength(1);
    expect(jobOf(cluster).metadata.uid).not.toBe(before);
    const again = jobOf(cluster).metadata.uid;
    cluster.fetchesEnd(refused, 'Failed');
    cluster.settle();
    expect(jobOf(cluster).metadata.uid).toBe(again);
    expect(cluster.condition('Staged')).toMatchObject({ reason: 'TokenRefused' });
  });

  it('in one attempt begins again too, before the others have failed', () => {
    const cluster = of('auto');
    const before = jobOf(cluster).metadata.uid;
    cluster.fetchAttemptEnds({ error: { reason: 'HubUnreachable', message: 'away' } });
    cluster.settle();
    expect(jobOf(cluster).metadata.uid).toBe(before);
    mended[1]![1](cluster);
    cluster.settle();
    expect(jobOf(cluster).metadata.uid).not.toBe(before);
  });

  it('while it runs well is left alone, whatever changes', () => {
    const cluster = of('auto');
    const before = jobOf(cluster).metadata.uid;
    for (const [, mend] of mended) mend(cluster);
    cluster.settle();
    expect(jobOf(cluster).metadata.uid).toBe(before);
  });

  it('for want of a licence or a Secret is tried again soon: nothing here shows when it is mended', () => {
    const cluster = of('auto');
    cluster.fetchesEnd(refused, 'Failed');
    cluster.settle();
    const before = jobOf(cluster).metadata.uid;
    cluster.nowMs += accessRetryMs - 1;
    cluster.settle();
    expect(jobOf(cluster).metadata.uid).toBe(before);
    cluster.nowMs += 1;
    cluster.settle();
    expect(jobOf(cluster).metadata.uid).not.toBe(before);
  });

  it('does not speak for the Job that follows it', () => {
    const cluster = of('auto');
    const job = jobOf(cluster);
    cluster.fetchAttemptEnds(refused, job);
    for (const pod of cluster.objects.ownPods.values())
      if (pod.metadata.labels?.['batch.kubernetes.io/job-name'])
        pod.metadata.labels['batch.kubernetes.io/controller-uid'] = 'uid-of-the-job-before';
    cluster.settle();
    expect(cluster.phase()).toBe('Staging');
  });
});
