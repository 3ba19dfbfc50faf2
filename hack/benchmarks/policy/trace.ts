/** Arrival traces: the Azure LLM inference trace's columns, TIMESTAMP,ContextTokens,GeneratedTokens. */
import { readFileSync, statSync } from 'node:fs';

/** Largest file that is read, bytes: some 6 million requests, of which the first are used. */
const traceBytesMax = 256 * 2 ** 20;

export interface TraceRow {
  /** Ms since the first row. */
  atMs: number;
  contextTokens: number;
  generatedTokens: number;
}

const columns = ['TIMESTAMP', 'ContextTokens', 'GeneratedTokens'];

/** `2023-11-16 18:15:46.6805900` as ms, taken as UTC; NaN: it is none. */
function timestampMs(text: string): number {
  const [day, fraction = '0'] = text.replace(/(\+00:00|Z)$/, '').split('.');
  return Date.parse(`${day!.replace(' ', 'T')}Z`) + Number(`0.${fraction}`) * 1000;
}

/**
 * @param text the file's; rows out of order are put in order
 * @param rowsMax further rows are not read
 * @throws Error that names the line and what is wrong with it
 */
export function parseTrace(text: string, rowsMax: number): TraceRow[] {
  const lines = text.split(/\r?\n/);
  const header = lines[0]!.split(',').map((name) => name.trim());
  const places = columns.map((name) => header.indexOf(name));
  if (places.includes(-1)) throw new Error(`line 1: the columns must be ${columns.join(',')}`);
  const rows: TraceRow[] = [];
  for (let at = 1; at < lines.length && rows.length < rowsMax; at++) {
    if (lines[at]!.trim() === '') continue;
    const cells = lines[at]!.split(',');
    const [stamp, context, generated] = places.map((place) => cells[place]?.trim() ?? '');
    const row = {
      atMs: timestampMs(stamp!),
      contextTokens: context === '' ? Number.NaN : Number(context),
      generatedTokens: generated === '' ? Number.NaN : Number(generated),
    };
    if (!Object.values(row).every((value) => Number.isFinite(value) && value >= 0))
      throw new Error(`line ${at + 1}: not a time and two counts of tokens: ${lines[at]!.slice(0, 80)}`);
    rows.push(row);
  }
  if (rows.length < 2) throw new Error('fewer than two requests: nothing to replay');
  rows.sort((a, b) => a.atMs - b.atMs);
  const firstMs = rows[0]!.atMs;
  for (const row of rows) row.atMs -= firstMs;
  return rows;
}

/** @throws Error that names the file and the line */
export function readTrace(path: string, rowsMax: number): TraceRow[] {
  const { size } = statSync(path);
  if (size > traceBytesMax)
    throw new Error(`${path}: ${size} bytes, at most ${traceBytesMax} are read: cut the file`);
  try {
    return parseTrace(readFileSync(path, 'utf8'), rowsMax);
  } catch (error) {
    throw new Error(`${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
}
