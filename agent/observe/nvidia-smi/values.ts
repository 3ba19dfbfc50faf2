/** The texts nvidia-smi prints for values. A value that cannot be read is null; what should not stand there is noted. */

/** Spellings of "there is no such value", without brackets, in lower case. */
const absentTexts = new Set([
  '',
  'n/a',
  'not available',
  'not supported',
  'insufficient permissions',
  'requested functionality has been deprecated',
  'redacted',
]);

/** Anomalies kept of one GPU; more would say nothing new. */
const anomaliesMax = 8;
/** Longest anomaly kept, characters. */
const anomalyCharactersMax = 80;

const bytesOf: Record<string, number> = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };

/** A value without the brackets that CSV puts around absent ones. */
const bare = (text: string) => text.trim().replace(/^\[(.*)\]$/, '$1');

export const isAbsent = (text: string): boolean => absentTexts.has(bare(text).toLowerCase());

/** Notes a text that stands where a value should. */
export function note(anomalies: string[], text: string): void {
  const short = bare(text).replace(/\s+/g, ' ').slice(0, anomalyCharactersMax);
  if (anomalies.length < anomaliesMax && !anomalies.includes(short)) anomalies.push(short);
}

/**
 * A figure such as `142.33 W`, `-4 C`, `65 %`.
 * @param unit the only unit that is accepted; a figure without one (CSV, nounits) is taken to be in it
 * @returns null when it is absent, or not such a figure: then it is noted in `anomalies`
 */
export function figure(text: string | undefined, unit: string, anomalies: string[]): number | null {
  if (text === undefined || isAbsent(text)) return null;
  const match = /^(-?\d+(?:\.\d+)?)(?: (\S+))?$/.exec(bare(text));
  if (match && (match[2] ?? unit) === unit) return Number(match[1]);
  note(anomalies, text);
  return null;
}

/** Memory such as `49140 MiB`, in bytes; without a unit (CSV, nounits) it is MiB. */
export function memory(text: string | undefined, anomalies: string[]): number | null {
  if (text === undefined || isAbsent(text)) return null;
  const match = /^(\d+) ?([KMG]?i?B)?$/.exec(bare(text));
  const factor = bytesOf[match?.[2] ?? 'MiB'];
  if (match && factor !== undefined) return Number(match[1]) * factor;
  note(anomalies, text);
  return null;
}

/** `Yes`, `Active`, `Enabled` or their opposites. */
export function flag(text: string | undefined, anomalies: string[]): boolean | null {
  if (text === undefined || isAbsent(text)) return null;
  const word = bare(text).toLowerCase();
  if (word === 'yes' || word === 'active' || word === 'enabled') return true;
  if (word === 'no' || word === 'not active' || word === 'disabled') return false;
  note(anomalies, text);
  return null;
}

/** Whether any of several flags is set; null when none of them is known. */
export function anyOf(...flags: (boolean | null)[]): boolean | null {
  const known = flags.filter((value) => value !== null);
  return known.length === 0 ? null : known.includes(true);
}

/** The sum of those figures that are known; null when none is. */
export function sumOf(...figures: (number | null)[]): number | null {
  const known = figures.filter((value) => value !== null);
  return known.length === 0 ? null : known.reduce((sum, value) => sum + value, 0);
}
