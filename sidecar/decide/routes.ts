/** Where a request goes, by its method and path alone. */
import type { EndpointName } from '#api/model.ts';
import { routeEndpoints } from '#proto/routes.ts';
import type { Refusal, Shape } from './refusals.ts';

/** Pages that are answered from memory. Those that tools poll are open even where API keys are asked for. */
export type Page = 'root' | 'status' | 'health' | 'ready' | 'metrics' | 'models' | 'model';

export type Destination =
  | { to: 'engine'; path: string; query: string; endpoint: EndpointName | 'any'; shape: Shape }
  | { to: 'page'; page: Page; id: string; shape: Shape }
  | { to: 'options'; allow: string; shape: Shape }
  | { to: 'refusal'; refusal: Refusal; shape: Shape };

const pages: Record<string, Page> = {
  '/': 'root',
  '/status': 'status',
  '/health': 'health',
  '/ready': 'ready',
  '/metrics': 'metrics',
  '/v1/models': 'models',
};

const pageMethods = 'GET, HEAD, OPTIONS';
const engineMethods = 'POST, OPTIONS';
const modelPrefix = '/v1/models/';

/** The pages that need no API key: what Kubernetes, Prometheus and a person at a terminal ask. */
export const isOpenPage = (page: Page): boolean => page !== 'models' && page !== 'model';

/** Splits a request target, absolute form included, into path and query (with its `?`). Nothing is decoded. */
export function splitTarget(target: string): { path: string; query: string } {
  const origin = /^https?:\/\/[^/?#]*/i.exec(target);
  const rest = origin ? target.slice(origin[0].length) : target;
  const mark = rest.indexOf('?');
  const path = mark === -1 ? rest : rest.slice(0, mark);
  return { path: path === '' ? '/' : path, query: mark === -1 ? '' : rest.slice(mark) };
}

/** What `/` serves under this path: an inference route, a page, or nothing. Only exact paths count. */
function known(path: string): { endpoint: EndpointName | 'any' } | { page: Page; id: string } | null {
  const endpoint = routeEndpoints.get(path);
  if (endpoint) return { endpoint };
  if (Object.hasOwn(pages, path)) return { page: pages[path]!, id: '' };
  if (path.startsWith(modelPrefix) && path.length > modelPrefix.length) {
    const id = decoded(path.slice(modelPrefix.length));
    return id === null ? null : { page: 'model', id };
  }
  return null;
}

function decoded(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

/**
 * The decision tree:
 * 1. the path as it is; 2. without `/<model>`; 3. without `/<namespace>/<model>`; none known → 404.
 * 4. OPTIONS → what is allowed; 5. another method than the route's → 405; 6. the page or the engine.
 * The engine is only ever asked for a path of the table, never for what the client wrote: its administrative routes
 * cannot be spelt.
 */
export function destination(
  method: string,
  target: string,
  own: { namespace: string; model: string },
): Destination {
  const { path, query } = splitTarget(target);
  let route = path;
  let found = known(route);
  for (const prefix of [`/${own.model}`, `/${own.namespace}/${own.model}`]) {
    if (found) break;
    if (path !== prefix && !path.startsWith(`${prefix}/`)) continue;
    route = path.slice(prefix.length) || '/';
    found = known(route);
  }
  const shape: Shape = route.startsWith('/v1/messages') ? 'anthropic' : 'openai';
  if (!found) return { to: 'refusal', refusal: { code: 'route_not_found' }, shape };
  const allow = 'page' in found ? pageMethods : engineMethods;
  if (method === 'OPTIONS') return { to: 'options', allow, shape };
  if (!allow.split(', ').includes(method)) {
    return { to: 'refusal', refusal: { code: 'method_not_allowed', allow }, shape };
  }
  if ('page' in found) return { to: 'page', ...found, shape };
  return { to: 'engine', path: route, query, endpoint: found.endpoint, shape };
}

/** Routes whose `stream: true` means server-sent events; elsewhere it may mean audio. */
export const eventStreamPaths: ReadonlySet<string> = new Set([
  '/v1/chat/completions',
  '/v1/completions',
  '/v1/responses',
  '/v1/messages',
]);

/** Whether the Model opens that endpoint now. */
export const isOpen = (endpoint: EndpointName | 'any', open: readonly EndpointName[]): boolean =>
  endpoint === 'any' ? open.length > 0 : open.includes(endpoint);
