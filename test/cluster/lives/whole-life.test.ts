/** One Model from `apply` to `delete` and back again. */
import { execa } from 'execa';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { downloads } from '../../../hack/installation/hub.ts';
import {
  agentPod,
  applyModel,
  clearViolations,
  deleteModels,
  type GpuObject,
  gpus,
  kubectl,
  onNode,
  podsOf,
  until,
  untilPhase,
  violations,
} from '../harness/cluster.ts';
import { answered, ask, lostText, send } from './asking.ts';
import { atEnd, deploy, type Ending, header, makeUpstream, row, untilReady } from './deploying.ts';

beforeAll(clearViolations);
afterAll(async () => expect(await violations()).toEqual([]));

const upstream = 'lives/whole-life';
const name = 'whole-life';
const spec = { modelName: upstream, product: 'Tesla-T4', vramPerGPU: '4Gi' };

const gpu = async (): Promise<GpuObject> =>
  (await gpus()).find(({ metadata }) => metadata.name === 'gpu-n2-0')!;
const freeBytes = async (): Promise<number> => (await gpu()).status!.memory!.freeBytes!;
/** Smaller moves of AVAILABLE are not written, bytes. */
const steadyBytes = 164 * 1024 ** 2;

/** What `kubectl get models -w` shows of the phase, each once until it changes. */
function watchPhases(test: Ending): () => string[] {
  const watching = execa(
    'kubectl',
    [
      ...['get', 'models', '-n', 'default', '--watch', '--field-selector', `metadata.name=${name}`],
      ...['-o', 'jsonpath={.status.phase}{"\\n"}'],
    ],
    { reject: false },
  );
  let text = '';
  watching.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  atEnd(test, async () => {
    watching.kill();
    await watching;
  });
  return () =>
    text
      .trim()
      .split('\n')
      .filter((phase, at, all) => phase !== '' && phase !== all[at - 1]);
}

it('is placed, boots, serves, sleeps, wakes, and leaves nothing but its files when it is deleted', async (test) => {
  await makeUpstream(test, upstream);
  const before = await freeBytes();
  const phases = watchPhases(test);
  await deploy(test, name, spec);
  await untilPhase(name, ['Ready']);
  await untilReady(name);

  const first = await ask(`/${name}`, { model: upstream });
  expect(answered(first), lostText(first)).toBe(true);
  await untilPhase(name, ['Serving']);
  await printMemory(name);
  await until(
    'AVAILABLE shrinks by what it holds',
    async () => (await freeBytes()) < before - 3.5 * 1024 ** 3,
  );
  await expectColumns();

  await applyModel(name, { ...spec, sleep: { idleTimeout: '1s' } });
  await untilPhase(name, ['Sleeping']);
  await until('AVAILABLE is what it was', async () => (await freeBytes()) >= before - steadyBytes);
  expect((await send(`/${name}/status`)).text).toMatch(
    /^\{"model":"whole-life","state":"sleeping","bootReady":true,"queue":\{"inFlight":0,"barriered":false\}/,
  );
  await applyModel(name, spec);
  await until('the long idleTimeout is in force', async () =>
    (await podsOf(name))[0]!.metadata.annotations!['greenthread.ai/settings']!.includes(
      '"idleTimeoutMs":600000',
    ),
  );
  const woken = await ask(`/${name}`, { model: upstream });
  expect(answered(woken), lostText(woken)).toBe(true);
  expect((await send(`/${name}/status`)).text).toMatch(
    /^\{"model":"whole-life","state":"serving","bootReady":true/,
  );
  await untilPhase(name, ['Serving']);
  await until(
    'kubectl has shown every phase',
    async () => phases().at(-1) === 'Serving' && phases().length > 4,
  );
  expect(phases().join(' ')).toMatch(/^(Pending )?Staging Ready Serving Sleeping Serving$/);

  const [pod] = await podsOf(name);
  expect(await podDirectories('n2')).toContain(pod!.metadata.uid);
  await deleteModels(name);
  await expectNothingLeft(pod!.metadata.uid!);

  const served = await downloads(upstream);
  expect(served).toBeGreaterThan(0);
  await applyModel(name, spec);
  await untilReady(name);
  const again = await ask(`/${name}`, { model: upstream });
  expect(answered(again), lostText(again)).toBe(true);
  expect(await downloads(upstream)).toBe(served);
});

const podDirectories = async (node: string): Promise<string[]> =>
  (await onNode(node, 'ls', '/run/greenthread/pods')).split('\n');

async function expectColumns(): Promise<void> {
  expect(await header(['get', 'models', '-A'])).toEqual(
    'NAMESPACE NAME PHASE REPLICAS READY NODE GPUS VRAM/GPU'.split(' '),
  );
  const model = await row(['get', 'models', '-A'], 'default', name);
  expect(model).toEqual([
    'default',
    name,
    'Serving',
    '1',
    '1',
    'n2',
    '0',
    expect.stringMatching(/^(3\.9|4\.0) GiB$/),
  ]);
  expect(await header(['get', 'gpus'])).toEqual('NAME NODE INDEX PRODUCT MODE HEALTH AVAILABLE'.split(' '));
  expect(await row(['get', 'gpus'], 'gpu-n2-0')).toEqual([
    ...['gpu-n2-0', 'n2', '0', 'Tesla-T4', 'inference', 'Healthy'],
    String(await freeBytes()),
  ]);
}

async function expectNothingLeft(podUid: string): Promise<void> {
  expect(
    await kubectl('get', 'pods,services,ingresses', '-A', '-l', `greenthread.ai/model=${name}`, '-o', 'name'),
  ).toBe('');
  const bindings = (await gpu()).spec.bindings ?? [];
  expect(bindings.filter(({ model }) => model === name)).toEqual([]);
  await until('its pod directory is gone', async () => !(await podDirectories('n2')).includes(podUid));
  await until('its GPU is idle unless others are bound to it', async () => {
    const { spec } = await gpu();
    return (
      ((await row(['get', 'gpus'], 'gpu-n2-0'))?.[4] === 'idle') === ((spec.bindings ?? []).length === 0)
    );
  });
}

/** RSS of a program on a node, of one pod where several run it, MB. */
async function residentMB(node: string, program: string, environment = ''): Promise<string> {
  const script = `for each in /proc/[0-9]*; do
    tr '\\0' ' ' <$each/cmdline 2>/dev/null | grep -q '^node .*${program}' || continue
    tr '\\0' '\\n' <$each/environ 2>/dev/null | grep -q '^${environment}' || continue
    awk '/^VmRSS/ { print $2 }' $each/status; done`;
  const sizes = (await onNode(node, 'sh', '-c', script)).split('\n').filter((line) => line !== '');
  return sizes.map((kib) => ((Number(kib) * 1024) / 1e6).toFixed(0)).join(', ');
}

/** Figures for people: how they move is told by the benchmarks, a test of them would fail on a busy machine. */
async function printMemory(model: string): Promise<void> {
  const [pod] = await podsOf(model);
  const agent = await agentPod('n2');
  const controllers = (await Promise.all(['n1', 'n2'].map((node) => residentMB(node, '/app/controller.js'))))
    .filter((text) => text !== '')
    .join(', ');
  console.log(
    `RSS after one request, MB: sidecar ${await residentMB('n2', '/app/sidecar.js', `POD_UID=${pod!.metadata.uid}`)} (target 95), ` +
      `agent ${await residentMB('n2', '/app/agent.js', `HOSTNAME=${agent.metadata.name}`)} (target 130), ` +
      `controllers ${controllers} (target 170)`,
  );
}
