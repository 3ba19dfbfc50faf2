/**
 * The form in which a measurement outlives its pod, beside the weights: one small JSON file by engine hash and product.
 * What it says is a first estimate for the next pod of the same kind, never a proof.
 */

/** Version of the file's form; a file of a later one is not read. */
export const keptMeasurementVersion = 1;
/** Below the folder of the weights. */
export const keptMeasurementFolder = '.greenthread/measurements';
/** Longest file that is read, bytes: ours have about 150. */
export const keptMeasurementBytesMax = 4096;

export interface KeptMeasurement {
  /** Of each GPU, awake, bytes. */
  awakeBytes: number;
  /** What a sleeper leaves on each GPU, bytes; null until it slept. */
  residueBytes: number | null;
}

/**
 * The file's name.
 * @param product as the label nvidia.com/gpu.product spells it
 * @returns null when a part could lead out of the folder or is longer than a name may be
 */
export function keptMeasurementName(engineHash: string, product: string): string | null {
  if (!/^[A-Za-z0-9]{1,64}$/.test(engineHash)) return null;
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(product)) return null;
  return `${engineHash}-${product}.json`;
}

export const formatKeptMeasurement = (measurement: KeptMeasurement): string =>
  `${JSON.stringify({ v: keptMeasurementVersion, ...measurement })}\n`;

const isBytes = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** @returns null for a text of another form, a later version included */
export function parseKeptMeasurement(text: string): KeptMeasurement | null {
  let value: { v?: unknown; awakeBytes?: unknown; residueBytes?: unknown } | null;
  try {
    value = JSON.parse(text) as typeof value;
  } catch {
    return null;
  }
  if (typeof value !== 'object' || value === null || value.v !== keptMeasurementVersion) return null;
  const { awakeBytes, residueBytes = null } = value;
  if (!isBytes(awakeBytes) || !(residueBytes === null || isBytes(residueBytes))) return null;
  return { awakeBytes, residueBytes };
}
