/**
 * Pure results kept beside the object that they come from: a plan looks at thousands of Models of which one has changed.
 * Objects of the cache are never changed in place, so an object is as good as its content.
 */

/** Results kept for one object; a Model is asked about a few places and paths, not about many. */
const resultsMax = 256;

/**
 * @param compute a pure function of an object and a text
 * @returns the same function, which computes once for each object and text
 */
export function rememberedBy<Owner extends object, Value>(
  compute: (owner: Owner, key: string) => Value,
): (owner: Owner, key: string) => Value {
  const results = new WeakMap<Owner, Map<string, Value>>();
  return (owner, key) => {
    let own = results.get(owner);
    if (!own) {
      own = new Map();
      results.set(owner, own);
    }
    if (own.has(key)) return own.get(key)!;
    if (own.size >= resultsMax) own.clear();
    const value = compute(owner, key);
    own.set(key, value);
    return value;
  };
}
