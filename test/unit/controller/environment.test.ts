/** Settings from the environment: defaults, and complaints that name the variable. */
import { describe, expect, it } from 'vitest';
import { readEnvironment } from '../../../controller/observe/environment.ts';
import { watchedLists } from '../../../controller/observe/watches.ts';

const least = { GREENTHREAD_NAMESPACE: 'gt', GREENTHREAD_IMAGE: 'i:1', GREENTHREAD_VLLM_IMAGE: 'v:1' };

describe('the environment', () => {
  it('needs three variables, the rest has defaults', () => {
    const { controller, listen, identity } = readEnvironment(least);
    expect(controller).toMatchObject({
      namespace: 'gt',
      runtimeClassName: 'nvidia',
      modelsPath: '/mnt/models',
      keepFreePercent: 11,
      route: { kind: 'ingress', className: '', host: '' },
      silentAfterMs: 10_000,
      wayOut: { proxy: '', noProxy: '', caConfigMap: '' },
      tolerations: [],
    });
    expect([listen.port, identity]).toEqual([9402, null]);
  });

  it('takes an empty variable as one that is not set', () => {
    expect(readEnvironment({ ...least, GREENTHREAD_MODELS_PATH: '' }).controller.modelsPath).toBe(
      '/mnt/models',
    );
  });

  const wrong: [string, Record<string, string>, RegExp][] = [
    ['a missing namespace', { GREENTHREAD_NAMESPACE: '' }, /GREENTHREAD_NAMESPACE/],
    ['a relative path', { GREENTHREAD_MODELS_PATH: 'models' }, /GREENTHREAD_MODELS_PATH/],
    ['a share', { GREENTHREAD_KEEP_FREE_PERCENT: '0.1' }, /GREENTHREAD_KEEP_FREE_PERCENT/],
    ['text that is not JSON', { GREENTHREAD_TOLERATIONS: '[' }, /GREENTHREAD_TOLERATIONS/],
    ['JSON of another shape', { GREENTHREAD_TOLERATIONS: '[{"kye":1}]' }, /kye/],
    ['a wait that is not a duration', { GREENTHREAD_SILENT_AFTER: '10' }, /GREENTHREAD_SILENT_AFTER/],
    ['a Gateway without a name', { GREENTHREAD_ROUTE: 'gateway' }, /GREENTHREAD_GATEWAY_NAME/],
  ];
  it.each(wrong)('refuses %s by its name', (_name, given, message) => {
    expect(() => readEnvironment({ ...least, ...given })).toThrow(message);
  });
});

describe('the watches', () => {
  const listsFor = (given: Record<string, string>) =>
    watchedLists(readEnvironment({ ...least, ...given }).controller);

  it('leave Secrets alone, and look for own pods and Jobs in one namespace only', () => {
    const lists = listsFor({});
    const paths = Object.values(lists).map((list) => list?.path ?? '');
    expect(paths.filter((path) => path.includes('secrets'))).toEqual([]);
    expect([lists.ownPods?.path, lists.jobs?.path]).toEqual([
      '/api/v1/namespaces/gt/pods',
      '/apis/batch/v1/namespaces/gt/jobs',
    ]);
  });

  it('follow the kind of route', () => {
    expect(listsFor({ GREENTHREAD_ROUTE: 'none' }).routes).toBeNull();
    expect(listsFor({ GREENTHREAD_ROUTE: 'gateway', GREENTHREAD_GATEWAY_NAME: 'g' }).routes?.path).toMatch(
      /httproutes$/,
    );
  });
});
