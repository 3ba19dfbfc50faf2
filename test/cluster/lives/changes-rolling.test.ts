/** The table "Changing a spec", what rolls: a new pod for each change, and no request is lost. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { readRepository } from '../../../hack/hub/repository.ts';
import { hubFiles } from '../../../hack/installation/hub.ts';
import { clearViolations, getModel, kubectl, violations } from '../harness/cluster.ts';
import { keepAsking, type Question } from './asking.ts';
import { atEnd, deploy, type Ending, makeUpstream, roll, tagImage, untilReady } from './deploying.ts';

beforeAll(clearViolations);
afterAll(async () => expect(await violations()).toEqual([]));

const modelName = 'Qwen/Qwen2.5-0.5B-Instruct';
const small = { modelName, vramPerGPU: '2Gi' };
const engineImage = 'localhost/greenthread-engine-sim';

type Spec = Record<string, unknown>;

interface Rolls {
  model: string;
  start: Spec;
  /** Each on top of the ones before. */
  changes: Record<string, Spec | (() => Promise<Spec>)>;
  /** Clients that leave `model` out, where it is about to change. */
  unnamed?: true;
  prepare?: (test: Ending) => Promise<unknown>;
  /** Where it is to be after a change. */
  places?: Record<string, { node: string; gpus: string }>;
}

const rolls: Rolls[] = [
  {
    model: 'roll-engine',
    start: { ...small, product: 'NVIDIA-A40' },
    changes: {
      dtype: { dtype: 'float16' },
      extraArgs: { extraArgs: ['--max-model-len=4096'] },
      aliases: { aliases: ['small-talk'] },
    },
  },
  {
    model: 'roll-memory',
    start: { ...small, product: 'NVIDIA-A40' },
    changes: {
      vramPerGPU: { vramPerGPU: '3Gi' },
      gpuMemoryUtilization: { gpuMemoryUtilization: '0.10', vramPerGPU: '' },
      resources: { resources: { requests: { cpu: '15m' } } },
    },
  },
  {
    model: 'roll-pod',
    start: { ...small, product: 'Tesla-T4' },
    changes: {
      tolerations: { tolerations: [{ key: 'lives', operator: 'Exists' }] },
      serviceAccountName: { serviceAccountName: 'lives' },
      staging: { staging: { pinned: true } },
    },
    prepare: async (test) => {
      atEnd(test, () => kubectl('delete', 'serviceaccount', 'lives', '--ignore-not-found'));
      await kubectl('create', 'serviceaccount', 'lives');
    },
  },
  {
    model: 'roll-images',
    start: { ...small, product: 'Tesla-T4' },
    changes: {
      vllmImage: { vllmImage: `${engineImage}:lives` },
      sidecarImage: { sidecarImage: 'localhost/greenthread:lives' },
    },
    prepare: async () => {
      await tagImage(`${engineImage}:dev`, `${engineImage}:lives`, ['n2']);
      await tagImage('localhost/greenthread:dev', 'localhost/greenthread:lives', ['n2']);
    },
  },
  {
    model: 'roll-place',
    start: { ...small, product: 'NVIDIA-A40' },
    changes: {
      parallelism: { parallelism: { tensor: 2, pipeline: 1 } },
      product: { product: 'Tesla-T4', parallelism: { tensor: 1, pipeline: 1 } },
      nodeSelector: { product: '', nodeSelector: { 'kubernetes.io/hostname': 'n1' } },
    },
    places: {
      parallelism: { node: 'n1', gpus: '0,1' },
      product: { node: 'n2', gpus: '0' },
      nodeSelector: { node: 'n1', gpus: expect.stringMatching(/^[01]$/) },
    },
  },
  {
    model: 'roll-files',
    start: { ...small, product: 'NVIDIA-A40' },
    unnamed: true,
    changes: {
      quantization: { quantization: 'fp8' },
      modelName: { modelName: 'lives/other' },
      revision: async () => ({ revision: (await readRepository(hubFiles, 'lives/other'))!.commit }),
    },
    prepare: (test) => makeUpstream(test, 'lives/other'),
  },
];

it.concurrent.for(rolls)(
  '$model: each change makes a new pod, with no request lost',
  async ({ model, start, changes, unnamed, prepare, places }, test) => {
    await prepare?.(test);
    await deploy(test, model, start);
    await untilReady(model);
    const question: Question = unnamed ? {} : { model: modelName };
    let spec = start;
    for (const [field, change] of Object.entries(changes)) {
      const asking = keepAsking(`/${model}`, question);
      atEnd(test, asking.end);
      spec = { ...spec, ...(typeof change === 'function' ? await change() : change) };
      await roll(model, spec);
      const place = places?.[field];
      if (place) expect((await getModel(model))!.status).toMatchObject(place);
      const { sent, lost } = await asking.end();
      expect(lost, field).toEqual([]);
      expect(sent, field).toBeGreaterThan(1);
    }
  },
);
