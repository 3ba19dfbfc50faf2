/** Models that fail, and say why; a mended spec brings each up without deleting it. */
import { join } from 'node:path';
import { execa } from 'execa';
import { expect, it } from 'vitest';
import { repository } from '../../../hack/nodes/places.ts';
import {
  applyModel,
  chartNamespace,
  client,
  conditionOf,
  kubectl,
  type ModelObject,
  onNode,
  until,
  untilModel,
} from '../harness/cluster.ts';
import { answered, ask, lostText } from './asking.ts';
import { atEnd, deploy, eventsOf, makeUpstream, untilReady } from './deploying.ts';

const good = 'Qwen/Qwen2.5-0.5B-Instruct';

/** Waits until it is Failed, with the reason in a condition and in an Event of type Warning. */
async function untilFailed(name: string, type: string, reason: string): Promise<ModelObject> {
  const model = await untilModel(
    name,
    `is Failed for ${reason}`,
    (each) => each.status?.phase === 'Failed' && conditionOf(each, type)?.reason === reason,
  );
  const event = await until('an Event tells it', async () =>
    (await eventsOf(name)).find((each) => each.reason === reason),
  );
  expect(event.type).toBe('Warning');
  expect(event.message).toBe(conditionOf(model, type)!.message);
  return model;
}

async function expectRecovers(name: string, spec: object): Promise<void> {
  await applyModel(name, spec);
  await untilReady(name);
  const answer = await ask(`/${name}`, { model: good });
  expect(answered(answer), lostText(answer)).toBe(true);
}

it.concurrent('an engine that ends with 1 at its start fails the Model; another modelName mends it', async (test) => {
  await makeUpstream(test, 'lives/exits', { simulation: { exitCode: 1, bootSeconds: 1 } });
  await deploy(test, 'exits', { modelName: 'lives/exits', vramPerGPU: '2Gi' });
  const model = await untilFailed('exits', 'Available', 'EngineFailed');
  expect(conditionOf(model, 'Available')!.message).toMatch(/code 1: .*simulated failure/);
  await expectRecovers('exits', { modelName: good, vramPerGPU: '2Gi' });
});

it.concurrent('an engine that does not know an argument fails the Model with its own words; the argument taken back mends it', async (test) => {
  const spec = { modelName: good, vramPerGPU: '2Gi' };
  await deploy(test, 'argued', { ...spec, extraArgs: ['--no-such-flag=1'] });
  const model = await untilFailed('argued', 'Available', 'EngineFailed');
  expect(conditionOf(model, 'Available')!.message).toMatch(/code 2: .*--no-such-flag/);
  await expectRecovers('argued', spec);
});

it.concurrent('an image that does not exist fails the Model; another vllmImage mends it', async (test) => {
  const spec = { modelName: good, vramPerGPU: '2Gi' };
  await deploy(test, 'unpulled', { ...spec, vllmImage: 'localhost/no-such-engine:1' });
  const model = await untilFailed('unpulled', 'Available', 'ImagePullBackOff');
  expect(conditionOf(model, 'Available')!.message).toContain('localhost/no-such-engine:1');
  await expectRecovers('unpulled', spec);
});

it.concurrent('a model that the hub does not have fails the Model with what to check; the right name mends it', async (test) => {
  await deploy(test, 'mistyped', { modelName: 'Qwen/Qwen2.5-0.5B-Instrukt', vramPerGPU: '2Gi' });
  const model = await untilFailed('mistyped', 'Staged', 'NotFoundOrPrivate');
  expect(conditionOf(model, 'Staged')!.message).toMatch(
    /Qwen\/Qwen2\.5-0\.5B-Instrukt .*check spec\.modelName.*controller\.huggingFaceToken/,
  );
  await expectRecovers('mistyped', { modelName: good, vramPerGPU: '2Gi' });
});

it.concurrent('a revision that the hub does not have fails the Model with what to check; the right one mends it', async (test) => {
  const spec = { modelName: good, vramPerGPU: '2Gi' };
  await deploy(test, 'unrevised', { ...spec, revision: 'v9' });
  const model = await untilFailed('unrevised', 'Staged', 'RevisionNotFound');
  expect(conditionOf(model, 'Staged')!.message).toContain('check spec.revision');
  await expectRecovers('unrevised', spec);
});

const token = 'hf_LivesOfModelsGatedTokenThatNobodyMayRead';

/** Sets values of the installed release as a person would. */
async function upgrade(...values: string[]): Promise<void> {
  await execa('helm', [
    ...['upgrade', 'greenthread', join(repository, 'helm/greenthread'), '--namespace', chartNamespace],
    ...['--reuse-values', ...values.flatMap((value) => ['--set', value])],
  ]);
  // Only the controllers that this upgrade starts know what it says.
  await kubectl('rollout', 'status', 'deployment/greenthread-controller', '-n', chartNamespace);
}

it('a gated model without a token says which value to set; with the token it comes up, and the token is seen nowhere', async (test) => {
  await makeUpstream(test, 'lives/gated', { hub: { gated: true, tokens: [token] } });
  await deploy(test, 'gated', { modelName: 'lives/gated', vramPerGPU: '2Gi' });
  const model = await untilFailed('gated', 'Staged', 'TokenNeeded');
  expect(conditionOf(model, 'Staged')!.message).toContain('controller.huggingFaceToken');

  atEnd(test, () => upgrade('controller.huggingFaceToken='));
  await upgrade(`controller.huggingFaceToken=${token}`);
  // The failed fetch begins again by itself: the controller knows that the token is another.
  await untilReady('gated');
  const answer = await ask('/gated', { model: 'lives/gated' });
  expect(answered(answer), lostText(answer)).toBe(true);
  await expectNowhere(token);
});

/** Looks for a secret text, also in base64, in every object but Secrets and in every container's log. */
async function expectNowhere(secret: string): Promise<void> {
  const encoded = Buffer.from(secret).toString('base64').slice(0, -4);
  const listed = await kubectl('api-resources', '--verbs=list', '-o', 'name');
  const kinds = listed.split('\n').filter((kind) => kind !== 'secrets');
  expect(kinds.length).toBeGreaterThan(20);
  const everything = await kubectl('get', kinds.join(','), '-A', '-o', 'json', '--ignore-not-found');
  expect(everything).toContain('"gated"');
  expect(everything.includes(secret) || everything.includes(encoded)).toBe(false);
  for (const node of ['n1', 'n2']) {
    const logs = await onNode(node, 'sh', '-c', `grep -rlE '${secret}|${encoded}' /var/log/pods || true`);
    expect(logs).toBe('');
    expect(await onNode(node, 'sh', '-c', 'ls /var/log/pods | wc -l')).not.toBe('0');
  }
  const found = await (await client()).get<{ data: { token: string } }>(
    `/api/v1/namespaces/${chartNamespace}/secrets/greenthread-huggingface`,
  );
  expect(Buffer.from(found!.data.token, 'base64').toString()).toBe(secret);
}
