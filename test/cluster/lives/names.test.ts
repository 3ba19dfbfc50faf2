/** Names at their limits, and one name in two namespaces. */
import { expect, it } from 'vitest';
import {
  applyModel,
  conditionOf,
  deleteModels,
  getModel,
  kubectl,
  until,
  untilModel,
  untilPhase,
} from '../harness/cluster.ts';
import { answered, ask, lostText, send } from './asking.ts';
import { deploy, makeNamespace, untilReady } from './deploying.ts';

const upstream = 'Qwen/Qwen2.5-0.5B-Instruct';
const small = { modelName: upstream, vramPerGPU: '2Gi' };

/** Which upstream model answers under a path; asks without waking anybody. */
async function answersAt(path: string): Promise<string | number> {
  const { status, text } = await send(`${path}/v1/models`);
  return status === 200 ? (JSON.parse(text) as { data: { id: string }[] }).data[0]!.id : status;
}

it.concurrent('a name of 50 characters in a namespace of 63 lives a whole life', async (test) => {
  const name = `${'long-model-name-'.repeat(3)}50`;
  const namespace = `${'long-namespace-'.repeat(4)}063`;
  expect([name.length, namespace.length]).toEqual([50, 63]);
  await makeNamespace(test, namespace);
  await deploy(test, name, { ...small, sleep: { idleTimeout: '2s' } }, namespace);
  await untilReady(name, namespace);
  for (const prefix of [`/${name}`, `/${namespace}/${name}`]) {
    const answer = await ask(prefix, { model: upstream });
    expect(answered(answer), lostText(answer)).toBe(true);
  }
  await untilPhase(name, ['Sleeping'], namespace);
  const woken = await ask(`/${namespace}/${name}`, { model: upstream });
  expect(answered(woken), lostText(woken)).toBe(true);
  await deleteModels([name, namespace]);
  expect(await kubectl('get', 'pods,services,ingresses', '-n', namespace, '-o', 'name')).toBe('');
});

it.concurrent('of two Models with one name the older keeps the short path, and the younger gets it when the older is gone', async (test) => {
  const younger = 'Qwen/Qwen2.5-1.5B-Instruct';
  await makeNamespace(test, 'lives-older');
  await makeNamespace(test, 'lives-younger');
  const { metadata } = await deploy(test, 'twin', small, 'lives-older');
  // The API server tells ages by the second.
  await until(
    'a second has passed',
    async () => Date.now() > Date.parse(metadata.creationTimestamp!) + 1_100,
  );
  await deploy(test, 'twin', { ...small, modelName: younger }, 'lives-younger');
  await untilReady('twin', 'lives-older');
  await untilReady('twin', 'lives-younger');

  expect(await answersAt('/twin')).toBe(upstream);
  expect(await answersAt('/lives-older/twin')).toBe(upstream);
  expect(await answersAt('/lives-younger/twin')).toBe(younger);
  const loser = await untilModel(
    'twin',
    'has lost its path',
    (model) => !!conditionOf(model, 'RouteConflict'),
    {
      namespace: 'lives-younger',
    },
  );
  expect(conditionOf(loser, 'RouteConflict')).toMatchObject({ status: 'True', reason: 'NameTaken' });
  expect(conditionOf(loser, 'RouteConflict')!.message).toContain('lives-older/twin');
  expect(loser.status).toMatchObject({ url: expect.stringMatching(/\/lives-younger\/twin$/) });
  expect(conditionOf((await getModel('twin', 'lives-older'))!, 'RouteConflict')).toBeUndefined();

  await deleteModels(['twin', 'lives-older']);
  await until('the younger is reached by the short path', async () => (await answersAt('/twin')) === younger);
  const winner = await untilModel('twin', 'has its path', (model) => !conditionOf(model, 'RouteConflict'), {
    namespace: 'lives-younger',
  });
  expect(winner.status).toMatchObject({ url: expect.stringMatching(/[0-9]\/twin$/) });
  const answer = await ask('/twin', { model: younger });
  expect(answered(answer), lostText(answer)).toBe(true);
});

it.concurrent('a name that breaks a rule is refused at apply, with the field and the remedy', async () => {
  await expect(applyModel('status', small)).rejects.toThrow(/metadata\.name.*choose another name/);
  await expect(applyModel('x'.repeat(51), small)).rejects.toThrow(/metadata\.name must be at most 50/);
});
