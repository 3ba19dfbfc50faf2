/** Whether an object needs writing. */
import { shortHash } from '#proto/names.ts';
import { ownAnnotations } from './settings.ts';

/** JSON with sorted keys and without undefined fields: equal values give equal text. */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(
          Object.entries(inner)
            .filter(([, field]) => field !== undefined)
            .sort(([left], [right]) => (left < right ? -1 : 1)),
        )
      : inner,
  );
}

/** Whether two values of JSON are equal; a field that is undefined counts as not there. */
export function isSame(left: unknown, right: unknown): boolean {
  if (left === right) return true;
  if (typeof left !== 'object' || typeof right !== 'object' || left === null || right === null) return false;
  if (Array.isArray(left) || Array.isArray(right)) {
    return (
      Array.isArray(left) &&
      Array.isArray(right) &&
      left.length === right.length &&
      left.every((item, index) => isSame(item, right[index]))
    );
  }
  const [one, other] = [left as Record<string, unknown>, right as Record<string, unknown>];
  for (const field in one) if (!isSame(one[field], other[field])) return false;
  for (const field in other) if (one[field] === undefined && other[field] !== undefined) return false;
  return true;
}

/** Whether all that `wanted` says is so in `found`; what it does not say (the API server's defaults) may be anything. */
export function covers(found: unknown, wanted: unknown): boolean {
  if (wanted === undefined) return true;
  if (typeof wanted !== 'object' || wanted === null) return found === wanted;
  if (typeof found !== 'object' || found === null) return false;
  if (Array.isArray(wanted)) {
    return (
      Array.isArray(found) &&
      found.length === wanted.length &&
      wanted.every((item, index) => covers(found[index], item))
    );
  }
  for (const field in wanted) {
    const value = (wanted as Record<string, unknown>)[field];
    if (!covers((found as Record<string, unknown>)[field], value)) return false;
  }
  return true;
}

const verdicts = new WeakMap<object, { wanted: object; covers: boolean }>();

/** `covers` for two objects of which neither is changed in place: asked again, it remembers. */
export function coversStill(found: object | undefined, wanted: object): boolean {
  if (!found) return false;
  const verdict = verdicts.get(found);
  if (verdict?.wanted === wanted) return verdict.covers;
  const fresh = { wanted, covers: covers(found, wanted) };
  verdicts.set(found, fresh);
  return fresh.covers;
}

/** The object with an annotation that changes whenever any of its fields does, removed ones included. */
export function stamped<T extends { metadata: object }>(object: T) {
  const given = (object.metadata as { annotations?: Record<string, string> }).annotations;
  const annotations: Record<string, string> = {
    ...given,
    [ownAnnotations.appliedHash]: shortHash(canonical(object)),
  };
  return { ...object, metadata: { ...object.metadata, annotations } };
}
