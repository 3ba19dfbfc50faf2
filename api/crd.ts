/** From the resources' definitions to CustomResourceDefinitions the API server accepts. */
import { z } from 'zod';
import { gpuColumns, gpuRules, gpuSpec, gpuStatus } from './gpu.ts';
import { modelColumns, modelRules, modelSpec, modelStatus } from './model.ts';

export const group = 'greenthread.ai';
export const version = 'v1alpha1';
export const apiVersion = `${group}/${version}`;

type JsonObject = Record<string, unknown>;

/**
 * JSON schema of a zod schema in the form a structural CRD schema needs: OpenAPI 3.0, no `additionalProperties: false`,
 * int-or-string fields without a type, CEL rules kept.
 */
export function structuralSchema(schema: z.ZodType): JsonObject {
  const json = z.toJSONSchema(schema, {
    target: 'openapi-3.0',
    io: 'input',
    override: ({ jsonSchema }) => {
      if (jsonSchema['x-kubernetes-int-or-string']) delete jsonSchema.anyOf;
      // Maps: OpenAPI knows no propertyNames; the API server refuses it.
      delete jsonSchema.propertyNames;
    },
  });
  return json as JsonObject;
}

interface ResourceDefinition {
  kind: string;
  plural: string;
  singular: string;
  shortNames?: string[];
  scope: 'Namespaced' | 'Cluster';
  spec: z.ZodType;
  status: z.ZodType;
  rules: JsonObject;
  columns: readonly JsonObject[];
  scale?: JsonObject;
  selectableFields?: { jsonPath: string }[];
}

const definitions: ResourceDefinition[] = [
  {
    kind: 'Model',
    plural: 'models',
    singular: 'model',
    scope: 'Namespaced',
    spec: modelSpec,
    status: modelStatus,
    rules: modelRules,
    columns: modelColumns,
    scale: {
      specReplicasPath: '.spec.replicas',
      statusReplicasPath: '.status.replicas',
      labelSelectorPath: '.status.selector',
    },
  },
  {
    kind: 'GPU',
    plural: 'gpus',
    singular: 'gpu',
    scope: 'Cluster',
    spec: gpuSpec,
    status: gpuStatus,
    rules: gpuRules,
    columns: gpuColumns,
    selectableFields: [{ jsonPath: '.spec.nodeName' }],
  },
];

function customResourceDefinition(resource: ResourceDefinition): JsonObject {
  const { kind, plural, singular, shortNames } = resource;
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${plural}.${group}`, annotations: { 'helm.sh/resource-policy': 'keep' } },
    spec: {
      group,
      scope: resource.scope,
      names: { kind, listKind: `${kind}List`, plural, singular, ...(shortNames && { shortNames }) },
      versions: [
        {
          name: version,
          served: true,
          storage: true,
          additionalPrinterColumns: resource.columns,
          ...(resource.selectableFields && { selectableFields: resource.selectableFields }),
          schema: {
            openAPIV3Schema: {
              type: 'object',
              required: ['spec'],
              ...resource.rules,
              properties: {
                apiVersion: { type: 'string' },
                kind: { type: 'string' },
                // Bounded, as names are anyway, so that the API server can bound the cost of rules over it.
                metadata: { type: 'object', properties: { name: { type: 'string', maxLength: 253 } } },
                spec: structuralSchema(resource.spec),
                status: structuralSchema(resource.status),
              },
            },
          },
          subresources: { status: {}, ...(resource.scale && { scale: resource.scale }) },
        },
      ],
    },
  };
}

/** The CustomResourceDefinitions of Model and GPU, as plain objects. */
export const customResourceDefinitions = (): JsonObject[] => definitions.map(customResourceDefinition);
