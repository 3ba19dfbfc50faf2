/** A GPU whose size is not known: its resource was made, or made again, and its agent has not measured yet. */
import { describe, expect, it } from 'vitest';
import type { Gpu } from '../../../controller/decide/kubernetes.ts';
import { gpu, model } from './builders.ts';
import { PlainCluster } from './plain-cluster.ts';

describe('a pod', () => {
  it('is not made while nobody knows the size of its GPU, and says so; one that runs goes on', () => {
    const cluster = new PlainCluster({ gpus: [gpu('n1', 0)], models: [model('a')] });
    cluster.settle();
    cluster.fetched();
    const found = cluster.gpu('gpu-n1-0');
    const { memory } = found.status!;
    const sized = (known: boolean) => {
      const { status, ...rest } = cluster.gpu('gpu-n1-0');
      cluster.objects.gpus.set('gpu-n1-0', {
        ...rest,
        status: { ...status!, memory: known ? memory : {} },
      } as Gpu);
      cluster.settle();
    };
    sized(false);
    expect(cluster.pods()).toEqual([]);
    expect(cluster.condition('Placed')).toMatchObject({
      reason: 'GPUSizeUnknown',
      message: 'the size of GPU 0 on n1 is not known: no pod is made until its agent tells',
    });
    sized(true);
    expect(cluster.condition('Placed')).toMatchObject({ status: 'True', reason: 'Placed' });
    const made = cluster.pods();
    expect(made).toHaveLength(1);
    expect(JSON.stringify(made)).toContain('"--gpu-memory-utilization","0.9');
    sized(false);
    expect(cluster.pods().map(({ metadata }) => metadata.uid)).toEqual(
      made.map(({ metadata }) => metadata.uid),
    );
  });
});
