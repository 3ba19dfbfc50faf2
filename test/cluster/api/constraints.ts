/** Every rule of the generated CRDs, found by walking their schemas. */
import { customResourceDefinitions } from '../../../api/crd.ts';

type Schema = Record<string, unknown>;

export interface Rule {
  plural: string;
  /** `spec.aliases[]`: an item of a list; `spec.nodeSelector{}`: a value of a map; `` the whole object. */
  path: string;
  rule: string;
  message: string;
}

export interface Bound {
  plural: string;
  path: string;
  keyword: 'enum' | 'minimum' | 'maximum' | 'minLength' | 'maxLength' | 'minItems' | 'maxItems' | 'required';
  limit: unknown;
  /** The schema that carries it, to make a value that is only just too much. */
  schema: Schema;
}

const boundKeywords = [
  'enum',
  'minimum',
  'maximum',
  'minLength',
  'maxLength',
  'minItems',
  'maxItems',
] as const;

/** Every schema below one, with its path. */
function* walk(schema: Schema, path: string): Generator<[string, Schema]> {
  yield [path, schema];
  for (const [name, child] of Object.entries((schema.properties ?? {}) as Record<string, Schema>)) {
    yield* walk(child, path === '' ? name : `${path}.${name}`);
  }
  if (schema.items) yield* walk(schema.items as Schema, `${path}[]`);
  if (typeof schema.additionalProperties === 'object') {
    yield* walk(schema.additionalProperties as Schema, `${path}{}`);
  }
}

function* schemas(): Generator<[string, string, Schema]> {
  for (const crd of customResourceDefinitions()) {
    const { names, versions } = crd.spec as {
      names: { plural: string };
      versions: { schema: { openAPIV3Schema: Schema } }[];
    };
    for (const [path, schema] of walk(versions[0]!.schema.openAPIV3Schema, ''))
      yield [names.plural, path, schema];
  }
}

/** All CEL rules, wherever they stand. */
export function rules(): Rule[] {
  return [...schemas()].flatMap(([plural, path, schema]) =>
    ((schema['x-kubernetes-validations'] ?? []) as { rule: string; message: string }[]).map(
      ({ rule, message }) => ({ plural, path, rule, message }),
    ),
  );
}

/** All bounds on spec fields: what people write. Status is written by our programs alone. */
export function bounds(): Bound[] {
  const found: Bound[] = [];
  for (const [plural, path, schema] of schemas()) {
    if (!path.startsWith('spec')) continue;
    for (const keyword of boundKeywords) {
      const limit = schema[keyword];
      // zod's own mark for "a whole number": no decision of ours, and JSON has no larger one.
      if (limit === undefined || limit === Number.MAX_SAFE_INTEGER) continue;
      found.push({ plural, path, keyword, limit, schema });
    }
    for (const name of (schema.required ?? []) as string[]) {
      found.push({ plural, path: `${path}.${name}`, keyword: 'required', limit: true, schema });
    }
  }
  return found;
}
