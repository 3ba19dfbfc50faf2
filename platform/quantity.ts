/** Kubernetes quantities of bytes. */

const factors: Record<string, number> = {
  '': 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  m: 1e-3,
};

/**
 * @param value a quantity as Kubernetes accepts it: `20Gi`, `1.5Gi`, `1e3`, 1073741824
 * @returns whole bytes, rounded up as Kubernetes does
 * @throws RangeError when it is not a quantity or is beyond 2^53
 */
export function parseBytes(value: string | number): number {
  const match =
    /^([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi|m)?$/.exec(
      String(value),
    );
  const bytes = match ? Math.ceil(Number(match[1]) * factors[match[2] ?? '']!) : Number.NaN;
  if (!Number.isSafeInteger(bytes)) {
    throw new RangeError(`${JSON.stringify(value)} is not a quantity of bytes: write it like 20Gi or 512Mi`);
  }
  return bytes;
}

/** Bytes for people: `42.2 GiB`, with so many digits behind the point. */
export const formatGiB = (bytes: number, digits = 1): string => `${(bytes / 2 ** 30).toFixed(digits)} GiB`;
