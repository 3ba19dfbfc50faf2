/** What is done to headers on their way through, both ways. Lists are flat: name, value, name, value. */

const hopByHop = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);
/** Ours to set, or meant for this hop alone. */
const notForEngine = new Set(['host', 'expect', 'content-length', 'x-request-id']);
const keyHeaders = new Set(['authorization', 'x-api-key']);
/** CORS is this front door's setting; the engine allows every origin by itself. */
const notForClient = new Set(['date', 'x-request-id', 'server-timing']);

/** Longest X-Request-Id that is kept, characters; a longer one is replaced. */
export const requestIdLengthMax = 256;

/** The request's own hop-by-hop names: those that every hop drops and those that its Connection header lists. */
function namedByConnection(raw: readonly string[]): Set<string> | null {
  let named: Set<string> | null = null;
  for (let at = 0; at < raw.length; at += 2) {
    if (raw[at]!.toLowerCase() !== 'connection') continue;
    for (const token of raw[at + 1]!.split(',')) {
      const name = token.trim().toLowerCase();
      if (name === 'close' || name === 'keep-alive' || name === '') continue;
      named ??= new Set();
      named.add(name);
    }
  }
  return named;
}

/**
 * Headers for the engine: all end-to-end ones as they came, with the request's id.
 * @param keepKeys false: API keys end here, they are this front door's and no engine's
 */
export function towardsEngine(raw: readonly string[], requestId: string, keepKeys: boolean): string[] {
  const named = namedByConnection(raw);
  const headers: string[] = [];
  for (let at = 0; at < raw.length; at += 2) {
    const name = raw[at]!.toLowerCase();
    if (hopByHop.has(name) || notForEngine.has(name) || name.startsWith('x-greenthread-')) continue;
    if (!keepKeys && keyHeaders.has(name)) continue;
    if (named?.has(name)) continue;
    headers.push(name, raw[at + 1]!);
  }
  headers.push('x-request-id', requestId);
  return headers;
}

/** Headers for the client: the engine's end-to-end ones. Values stay single bytes (latin1), as on the wire. */
export function towardsClient(headers: Readonly<Record<string, string | string[] | undefined>>): string[] {
  const connection = headers.connection;
  const named =
    connection === undefined ? null : namedByConnection(['connection', [connection].flat().join(',')]);
  const kept: string[] = [];
  for (const name in headers) {
    const value = headers[name];
    if (value === undefined || hopByHop.has(name) || notForClient.has(name)) continue;
    if (name.startsWith('access-control-') || named?.has(name)) continue;
    if (typeof value === 'string') kept.push(name, value);
    else for (const one of value) kept.push(name, one);
  }
  return kept;
}

/** The client's X-Request-Id where it can be kept. */
export function keptRequestId(given: string | string[] | undefined): string | null {
  if (typeof given !== 'string' || given === '' || given.length > requestIdLengthMax) return null;
  return given;
}

/** Server-Timing: what waiting cost, and how much of that was the wake, milliseconds. */
export const serverTiming = (queueMs: number, wakeMs: number): string =>
  queueMs === 0 && wakeMs === 0
    ? 'queue;dur=0, wake;dur=0'
    : `queue;dur=${queueMs.toFixed(1)}, wake;dur=${wakeMs.toFixed(1)}`;
