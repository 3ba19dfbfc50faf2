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
  return Object.entries(wanted).every(([field, value]) =>
    covers((found as Record<string, unknown>)[field], value),
  );
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
