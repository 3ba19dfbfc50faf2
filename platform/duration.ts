/** Go-style durations (`10m`, `1h30m`, `250ms`), as Kubernetes writes them. */

const unitMs: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/**
 * @param text such as `1h30m`
 * @returns milliseconds
 * @throws RangeError when the text is not a duration
 */
export function parseDuration(text: string): number {
  if (!/^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$/.test(text)) {
    throw new RangeError(`${JSON.stringify(text)} is not a duration: write it like 250ms, 10s, 5m or 1h30m`);
  }
  let total = 0;
  for (const [, amount, unit] of text.matchAll(/([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)/g)) {
    total += Number(amount) * unitMs[unit!]!;
  }
  return total;
}
