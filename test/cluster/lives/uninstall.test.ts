/** The chart taken away and put back: Models stay, and can still be deleted. */
import { execa } from 'execa';
import { expect, it } from 'vitest';
import { installChart } from '../../../hack/installation/chart.ts';
import { upCluster } from '../../../hack/installation/cluster.ts';
import { chartNamespace, deleteModels, getModel, gpus, kubectl, podsOf, until } from '../harness/cluster.ts';
import { answered, ask, lostText } from './asking.ts';
import { atEnd, deploy, untilReady } from './deploying.ts';

const modelName = 'Qwen/Qwen2.5-0.5B-Instruct';

const install = async (): Promise<void> =>
  installChart(await upCluster(['--gpus', process.env.GREENTHREAD_TEST_GPUS ?? 'a40:2,t4:1']), {
    simulated: true,
  });

it('helm uninstall takes finalizers off and leaves CRDs and Models; an install finds them again', async (test) => {
  let isInstalled = true;
  atEnd(test, async () => {
    if (!isInstalled) await install();
    await deleteModels('goes', 'stays');
  });
  for (const name of ['goes', 'stays']) await deploy(test, name, { modelName, vramPerGPU: '2Gi' });
  for (const name of ['goes', 'stays']) await untilReady(name);

  isInstalled = false;
  await execa('helm', ['uninstall', 'greenthread', '--namespace', chartNamespace, '--wait']);
  expect(await kubectl('get', 'crd', 'models.greenthread.ai', 'gpus.greenthread.ai', '-o', 'name')).toContain(
    'models.greenthread.ai',
  );
  for (const name of ['goes', 'stays']) expect((await getModel(name))!.metadata.finalizers ?? []).toEqual([]);
  // What was awake goes on serving: the front door is the pod's own.
  const meanwhile = await ask('/stays', { model: modelName });
  expect(answered(meanwhile), lostText(meanwhile)).toBe(true);

  await kubectl('delete', 'model', 'goes', '--timeout=60s');
  expect(await getModel('goes')).toBeNull();
  await until('its pod is collected with it', async () => (await podsOf('goes')).length === 0);

  await install();
  isInstalled = true;
  await untilReady('stays');
  expect((await getModel('stays'))!.metadata.finalizers).toEqual(['greenthread.ai/cleanup']);
  await until('the GPUs are as they were', async () => {
    const found = await gpus();
    return (
      found.length === 3 &&
      found.every(({ status }) => status?.health === 'Healthy') &&
      !found.some(({ spec }) => spec.bindings?.some(({ model }) => model === 'goes'))
    );
  });
  const after = await ask('/stays', { model: modelName });
  expect(answered(after), lostText(after)).toBe(true);
});
