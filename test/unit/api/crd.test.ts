import { describe, expect, it } from 'vitest';
import { customResourceDefinitions } from '../../../api/crd.ts';
import { modelSpec, reservedNames } from '../../../api/model.ts';

type Json = Record<string, unknown>;

/** Every object within a schema, with the path to it. */
function* nodes(value: unknown, path = ''): Generator<[string, Json]> {
  if (typeof value !== 'object' || value === null) return;
  if (!Array.isArray(value)) yield [path, value as Json];
  for (const [key, child] of Object.entries(value)) yield* nodes(child, `${path}/${key}`);
}

const crds = customResourceDefinitions() as {
  metadata: { name: string };
  spec: { versions: { schema: { openAPIV3Schema: Json }; additionalPrinterColumns: { name: string }[] }[] };
}[];

describe('the generated CRDs', () => {
  it('name models and gpus', () => {
    expect(crds.map((crd) => crd.metadata.name)).toEqual(['models.greenthread.ai', 'gpus.greenthread.ai']);
  });

  it('are structural: no additionalProperties: false, no anyOf, no const', () => {
    for (const crd of crds) {
      for (const [path, node] of nodes(crd.spec.versions[0]!.schema)) {
        expect(node.additionalProperties, path).not.toBe(false);
        for (const keyword of ['anyOf', 'oneOf', 'const', '$ref', 'propertyNames']) {
          if (!path.endsWith('/properties')) expect(node, path).not.toHaveProperty(keyword);
        }
      }
    }
  });

  it('give every rule a message that names its field', () => {
    for (const crd of crds) {
      for (const [path, node] of nodes(crd.spec.versions[0]!.schema)) {
        for (const rule of (node['x-kubernetes-validations'] as { rule: string; message: string }[]) ?? []) {
          expect(rule.message, path).toMatch(/^(spec|metadata)\./);
        }
      }
    }
  });

  it('print exactly the columns users were promised', () => {
    const columns = crds.map((crd) =>
      crd.spec.versions[0]!.additionalPrinterColumns.map((column) => column.name.toUpperCase()),
    );
    expect(columns).toEqual([
      ['PHASE', 'REPLICAS', 'READY', 'NODE', 'GPUS', 'VRAM/GPU'],
      ['NODE', 'INDEX', 'PRODUCT', 'MODE', 'HEALTH', 'AVAILABLE'],
    ]);
  });
});

describe('a Model spec', () => {
  it('gets every default from the one definition', () => {
    const spec = modelSpec.parse({ modelName: 'org/name' });
    expect(spec).toMatchObject({
      revision: 'main',
      modelType: 'chat',
      loadFormat: 'auto',
      replicas: 1,
      gpuMemoryUtilization: '0.90',
      fairness: { popular: false, minRuntime: '10s', maxWaitTime: '5s', priority: 0 },
      sleep: { idleTimeout: '10m', drainTimeout: '30s', level: 'auto' },
      frontDoor: { maxQueued: 512, maxQueuedBytes: '64Mi', maxWait: '5m', maxBodyBytes: '32Mi' },
    });
  });

  it('may not be named like a path of the front door', () => {
    expect(reservedNames).toContain('status');
  });
});
