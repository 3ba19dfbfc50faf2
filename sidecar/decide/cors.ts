/** Cross-origin requests, by the Model's `frontDoor.corsOrigins`. */

/** How long a browser may keep a preflight's answer, seconds. */
const maxAgeSeconds = 600;
const exposed = 'x-request-id, server-timing, retry-after, x-should-retry, x-greenthread-refused';

/** The value of Access-Control-Allow-Origin; null when that origin may not call. */
function allowedOrigin(origin: string | undefined, origins: readonly string[]): string | null {
  if (!origin) return null;
  if (origins.includes('*')) return '*';
  return origins.includes(origin) ? origin : null;
}

/** Headers of every answer to a request with that Origin, flat. */
export function corsHeaders(origin: string | undefined, origins: readonly string[]): string[] {
  if (origins.length === 0) return [];
  const allowed = allowedOrigin(origin, origins);
  const vary = origins.includes('*') ? [] : ['vary', 'Origin'];
  return allowed === null
    ? vary
    : [...vary, 'access-control-allow-origin', allowed, 'access-control-expose-headers', exposed];
}

/** What a preflight is told beside corsHeaders: the route's methods, and the headers it asked for as it wrote them. */
export function preflightHeaders(
  ask: { origin?: string | undefined; headers?: string | undefined },
  allow: string,
  origins: readonly string[],
): string[] {
  if (allowedOrigin(ask.origin, origins) === null) return [];
  const headers = ['access-control-allow-methods', allow, 'access-control-max-age', String(maxAgeSeconds)];
  if (ask.headers) headers.push('access-control-allow-headers', ask.headers);
  return headers;
}
