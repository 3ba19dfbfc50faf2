/** Reads `model` and `stream` out of a body without building it: only these two are ours to read. */

export interface Named {
  /** The `model` field: its text; null when there is none or it is null; undefined when it is not a string. */
  model: string | null | undefined;
  stream: boolean;
}

/** Longest value or key that is decoded, bytes: an upstream id has at most 253 characters, each at most 6 bytes escaped. */
const decodedBytesMax = 2048;

const quote = 0x22;
const backslash = 0x5c;
const comma = 0x2c;

/** Where the string that opens at `from` closes; -1 when it does not. Found natively: images are long strings. */
function closingQuote(body: Buffer, from: number): number {
  for (let at = body.indexOf(quote, from + 1); at !== -1; at = body.indexOf(quote, at + 1)) {
    let slashes = 0;
    while (body[at - 1 - slashes] === backslash) slashes++;
    if (slashes % 2 === 0) return at;
  }
  return -1;
}

/** A JSON string's text; undefined when it is longer than anything we look for, or not a JSON string. */
function textOf(body: Buffer, open: number, close: number): string | undefined {
  if (close - open > decodedBytesMax) return undefined;
  const raw = body.toString('utf8', open + 1, close);
  if (!raw.includes('\\')) return raw;
  try {
    return JSON.parse(`"${raw}"`) as string;
  } catch {
    return undefined;
  }
}

const isSpace = (byte: number): boolean => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
const opens = (byte: number): boolean => byte === 0x7b || byte === 0x5b;
const closes = (byte: number): boolean => byte === 0x7d || byte === 0x5d;

/** First byte at or after `from` that is no white space. */
function skipSpace(body: Buffer, from: number): number {
  let at = from;
  while (at < body.length && isSpace(body[at]!)) at++;
  return at;
}

/** The end (exclusive) of the object or array that opens at `from`; -1 when it does not close. */
function nestedEnd(body: Buffer, from: number): number {
  let depth = 0;
  for (let at = from; at < body.length; at++) {
    const byte = body[at]!;
    if (byte === quote) {
      at = closingQuote(body, at);
      if (at === -1) return -1;
    } else if (opens(byte)) depth++;
    else if (closes(byte) && --depth === 0) return at + 1;
  }
  return -1;
}

/** The end (exclusive) of the value that begins at `from`; -1 when it does not end. */
function valueEnd(body: Buffer, from: number): number {
  const first = body[from]!;
  if (first === quote) {
    const close = closingQuote(body, from);
    return close === -1 ? -1 : close + 1;
  }
  if (opens(first)) return nestedEnd(body, from);
  for (let at = from; at < body.length; at++) {
    const byte = body[at]!;
    if (byte === comma || closes(byte) || isSpace(byte)) return at;
  }
  return -1;
}

/** One value of the top-level object as far as we care: text, the literals, or something else. */
function literal(body: Buffer, from: number, end: number): string | boolean | null | undefined {
  if (body[from] === quote) return textOf(body, from, end - 1);
  const raw = body.toString('latin1', from, Math.min(end, from + 6));
  if (raw === 'true') return true;
  if (raw === 'false') return false;
  return raw === 'null' ? null : undefined;
}

/** One `"key": value` that begins at `at`: its key, and where its value lies; null when it is none. */
function memberAt(body: Buffer, at: number): { key: string | undefined; from: number; end: number } | null {
  const close = body[at] === quote ? closingQuote(body, at) : -1;
  if (close === -1) return null;
  const colon = skipSpace(body, close + 1);
  if (body[colon] !== 0x3a) return null;
  const from = skipSpace(body, colon + 1);
  const end = valueEnd(body, from);
  return end === -1 || end === from ? null : { key: textOf(body, at, close), from, end };
}

/**
 * Reads the top-level object's `model` and `stream`, in any order, the last of several winning as in every JSON parser.
 * @returns null when the body is not one JSON object; what lies inside other fields is the engine's to judge
 */
export function readJson(body: Buffer): Named | null {
  const named: Named = { model: null, stream: false };
  const hasMark = body[0] === 0xef && body[1] === 0xbb && body[2] === 0xbf;
  let at = skipSpace(body, hasMark ? 3 : 0);
  if (body[at] !== 0x7b) return null;
  at = skipSpace(body, at + 1);
  for (let first = true; body[at] !== 0x7d; first = false) {
    if (!first) {
      if (body[at] !== comma) return null;
      at = skipSpace(body, at + 1);
    }
    const member = memberAt(body, at);
    if (!member) return null;
    if (member.key === 'model') {
      const value = literal(body, member.from, member.end);
      named.model = typeof value === 'string' || value === null ? value : undefined;
    } else if (member.key === 'stream') named.stream = literal(body, member.from, member.end) === true;
    at = skipSpace(body, member.end);
  }
  return skipSpace(body, at + 1) === body.length ? named : null;
}

/** The boundary of a multipart content type; null when the type is another. */
export function boundaryOf(contentType: string): string | null {
  if (!/^\s*multipart\/form-data\s*;/i.test(contentType)) return null;
  const match = /;\s*boundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))/i.exec(contentType);
  return match?.[1] ?? match?.[2] ?? null;
}

/** Longest header block of one part, bytes. */
const partHeaderBytesMax = 8 * 1024;

/**
 * Reads the form's field `model`.
 * @returns null when the body is not a complete form. Of several `model` fields that differ, `model` is undefined: which
 * one an engine takes is not ours to guess
 */
export function readForm(body: Buffer, boundary: string): Named | null {
  const delimiter = Buffer.from(`--${boundary}`, 'latin1');
  const named: Named = { model: null, stream: false };
  let at = body.indexOf(delimiter);
  if (at !== 0 && (at === -1 || body.toString('latin1', at - 2, at) !== '\r\n')) return null;
  for (;;) {
    at += delimiter.length;
    if (body.toString('latin1', at, at + 2) === '--') return named;
    const headersFrom = at;
    const headersEnd = body.indexOf('\r\n\r\n', headersFrom);
    if (headersEnd === -1 || headersEnd - headersFrom > partHeaderBytesMax) return null;
    const next = body.indexOf(`\r\n--${boundary}`, headersEnd + 2);
    if (next === -1) return null;
    const headers = body.toString('latin1', headersFrom, headersEnd);
    if (/\r\ncontent-disposition:[^\r\n]*;\s*name=(?:"model"|model)(?=[;\s]|$)/im.test(headers)) {
      const from = headersEnd + 4;
      const value =
        next - from > decodedBytesMax ? undefined : body.toString('utf8', Math.min(from, next), next);
      named.model = named.model === null || named.model === value ? value : undefined;
    }
    at = next + 2;
  }
}
