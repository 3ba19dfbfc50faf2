/** Every rule of the CRDs, tried on the real API server: the good passes, the bad is refused with the promised words. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { type KubernetesClient, KubernetesError } from '../../../platform/kubernetes/client.ts';
import { connect } from '../../../platform/kubernetes/connect.ts';
import { type Bound, bounds, rules } from './constraints.ts';
import { full, fullModel, trials, withValue } from './manifests.ts';

const collections: Record<string, string> = {
  models: '/apis/greenthread.ai/v1alpha1/namespaces/default/models',
  gpus: '/apis/greenthread.ai/v1alpha1/gpus',
};
let client: KubernetesClient;
beforeAll(async () => {
  client = await connect();
});
afterAll(() => client?.close());

/** What the API server says to a resource that it is asked to check, not to keep: null when it accepts. */
async function refusal(plural: string, resource: object): Promise<string | null> {
  try {
    await client.create(`${collections[plural]}?dryRun=All`, resource);
    return null;
  } catch (error) {
    if (error instanceof KubernetesError && error.status === 422) return error.message;
    throw error;
  }
}

/** A rule over the whole object is tried at the field that its message names. */
const trialKey = (plural: string, path: string): string =>
  `${plural} ${path === '' ? 'metadata.name' : path}`;

describe('every CEL rule', () => {
  it('has a good and a bad value in the table, and the table has no rule too many', () => {
    const untried = rules().filter(({ plural, path, message }) => {
      const trial = trials.get(trialKey(plural, path));
      return !trial || trial.good.length === 0 || !trial.bad.some(([, part]) => message.includes(part));
    });
    expect(untried.map(({ path, message }) => `${path}: ${message}`)).toEqual([]);
    const keys = new Set(rules().map(({ plural, path }) => trialKey(plural, path)));
    expect([...trials.keys()].filter((key) => !keys.has(key))).toEqual([]);
  });

  for (const [key, { good, bad }] of trials) {
    const [plural, path] = key.split(' ') as [string, string];
    it.each(good.map((value) => [JSON.stringify(value), value]))(`accepts ${path} %s`, async (_, value) => {
      expect(await refusal(plural, withValue(full[plural]!(), path, value))).toBeNull();
    });
    it.each(bad.map(([value, message]) => [JSON.stringify(value).slice(0, 60), message, value]))(
      `refuses ${path} %s: %s`,
      async (_, message, value) => {
        expect(await refusal(plural, withValue(full[plural]!(), path, value))).toContain(message);
      },
    );
  }
});

/** A value just beyond a bound, with what the API server says to it; and one just within, where other rules allow one. */
function beyond(bound: Bound): { bad: unknown; says: string; good?: unknown } {
  const limit = bound.limit as number;
  const items = (count: number) =>
    Array.from({ length: count }, (_, at) => sample(bound.schema.items as object, at));
  switch (bound.keyword) {
    case 'enum':
      return { bad: 'none-of-them', says: 'Unsupported value' };
    case 'minimum':
      return { bad: limit - 1, says: 'should be greater than or equal to', good: limit };
    case 'maximum':
      return { bad: limit + 1, says: 'should be less than or equal to', good: limit };
    case 'minLength':
      return { bad: '', says: 'should be at least' };
    case 'maxLength':
      return { bad: 'a'.repeat(limit + 1), says: 'may not be more than' };
    case 'minItems':
      return { bad: [], says: 'should have at least' };
    case 'maxItems':
      return { bad: items(limit + 1), says: 'must have at most' };
    case 'required':
      return { bad: undefined, says: 'Required value' };
  }
}

/** An item of a list that is like no other. */
function sample(schema: object, at: number): unknown {
  const {
    type,
    enum: values,
    properties,
  } = schema as { type?: string; enum?: unknown[]; properties?: object };
  if (values) return values[at % values.length];
  if (properties)
    return (properties as { replica?: object }).replica ? { ...binding, replica: at } : { key: `k${at}` };
  return type === 'string' ? `item-${at}` : at;
}
const binding = { namespace: 'default', model: 'm', uuid: 'GPU-1', reservedBytes: 1, popular: false };

describe('every bound of a spec field', () => {
  it.each(bounds().map((bound) => [bound.path, bound.keyword, bound] as const))(
    '%s: %s',
    async (path, _, bound) => {
      const { bad, says, good } = beyond(bound);
      const resource = full[bound.plural]!();
      const refused = await refusal(bound.plural, withValue(resource, path, bad));
      expect(refused).toContain(says);
      if (good !== undefined && path !== 'spec.parallelism.tensor' && path !== 'spec.parallelism.pipeline') {
        expect(await refusal(bound.plural, withValue(resource, path, good))).toBeNull();
      }
    },
  );
});

describe('the walk-through’s manifests', () => {
  it.each(['llama-3-8b.yaml', 'two-models.yaml'])('%s applies as it stands', async (file) => {
    const text = readFileSync(join(import.meta.dirname, '../../../hack/walkthrough/manifests', file), 'utf8');
    for (const document of parseAllDocuments(text))
      expect(await refusal('models', document.toJSON())).toBeNull();
  });
});

describe('a Model as the API server stores it', () => {
  it('has every default, and a scale subresource', async () => {
    const stored = await client.create<{ spec: object }>(`${collections.models}?dryRun=All`, {
      ...fullModel(),
      spec: { modelName: 'org/name' },
    });
    expect(stored.spec).toMatchObject({
      revision: 'main',
      replicas: 1,
      parallelism: { tensor: 1, pipeline: 1 },
      gpuMemoryUtilization: '0.90',
      fairness: { popular: false, minRuntime: '10s', maxWaitTime: '5s', priority: 0 },
      sleep: { idleTimeout: '10m', drainTimeout: '30s', level: 'auto' },
    });
    const resources = await client.get<{ resources: { name: string }[] }>('/apis/greenthread.ai/v1alpha1');
    expect(resources?.resources.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['models', 'models/status', 'models/scale', 'gpus', 'gpus/status']),
    );
  });
});
