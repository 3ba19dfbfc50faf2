/**
 * The pieces both resources are made of: fields whose rules the API server itself enforces.
 *
 * Each is a zod schema that carries its OpenAPI and CEL half in `meta`; `crd.ts` turns a whole resource into a
 * CustomResourceDefinition. Strings are bounded because the API server refuses CEL rules over unbounded ones.
 */
import { z } from 'zod';

/** A CEL rule (Kubernetes `x-kubernetes-validations`); the message names the field and the remedy. */
export interface CelRule {
  rule: string;
  message: string;
}

/** Puts CEL rules on a schema; they are checked by the API server, not by zod. */
export const cel = (...rules: CelRule[]) => ({ 'x-kubernetes-validations': rules });

/** A string of at most `maxLength` characters. */
export const text = (maxLength: number) => z.string().max(maxLength);

const goDuration = '^([0-9]+([.][0-9]+)?(ms|s|m|h))+$';

/**
 * A Go duration such as `10m`, `1h30m`, `250ms`.
 * @param field the field's path, for the message
 * @param range `zero`: 0s is allowed (it switches the thing off); `max`: the longest that is accepted
 */
export function duration(field: string, range: { zero?: boolean; max: string }) {
  const low = range.zero ? "duration(self) >= duration('0s')" : "duration(self) > duration('0s')";
  return text(32).meta(
    cel(
      {
        rule: `self.matches('${goDuration}')`,
        message: `${field} must be a duration such as 250ms, 10s, 5m or 1h30m`,
      },
      {
        rule: `!self.matches('${goDuration}') || (${low} && duration(self) <= duration('${range.max}'))`,
        message: `${field} must be ${range.zero ? 'between 0s and' : 'more than 0s and at most'} ${range.max}`,
      },
    ),
  );
}

/**
 * A Kubernetes quantity of bytes, as text (`20Gi`) or as a plain integer.
 * @param empty whether an empty text is allowed and means "not set"
 */
export function byteQuantity(field: string, options: { empty?: boolean; max: string }) {
  const isSet = "type(self) != string || self != ''";
  const valid = 'type(self) == string ? isQuantity(self) : self > 0';
  const bounded = `type(self) != string || !isQuantity(self) || (quantity(self).isGreaterThan(quantity('0')) && !quantity(self).isGreaterThan(quantity('${options.max}')))`;
  const guard = (rule: string) => (options.empty ? `!(${isSet}) || (${rule})` : rule);
  return z.union([z.int(), text(32)]).meta({
    'x-kubernetes-int-or-string': true,
    ...cel(
      { rule: guard(valid), message: `${field} must be a quantity of bytes such as 20Gi or 512Mi` },
      { rule: guard(bounded), message: `${field} must be more than 0 and at most ${options.max}` },
    ),
  });
}

/** A whole number within bounds (both inclusive). */
export const whole = (minimum: number, maximum: number) => z.int().min(minimum).max(maximum);

/** A list of texts without duplicates (`x-kubernetes-list-type: set`). */
export const textSet = (item: z.ZodType<string>, maxItems: number) =>
  z.array(item).max(maxItems).meta({ 'x-kubernetes-list-type': 'set' });

/** metav1.Condition, as every Kubernetes tool reads it (`kubectl wait --for=condition=…`). */
export const condition = z.object({
  type: text(316),
  status: z.enum(['True', 'False', 'Unknown']),
  observedGeneration: z.int().min(0).optional(),
  lastTransitionTime: text(64).meta({ format: 'date-time' }),
  reason: text(1024),
  message: text(32768),
});
export type Condition = z.output<typeof condition>;

/** Conditions as a list-map by type, so that each writer owns its own entries under server-side apply. */
export const conditions = z
  .array(condition)
  .max(32)
  .meta({ 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['type'] });
