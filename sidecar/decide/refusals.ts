/**
 * Every error this front door makes itself: one table of codes, and the two shapes clients expect. docs/front-door.md
 * lists the same codes; a test holds the two together.
 */

/** Which client library reads the answer: OpenAI's everywhere, Anthropic's on /v1/messages. */
export type Shape = 'openai' | 'anthropic';

interface Entry {
  status: number;
  /** `error.type` as OpenAI's clients know it. */
  openai: string;
  /** `error.type` as Anthropic's clients know it. */
  anthropic: string;
  /** yes: Retry-After; never: `x-should-retry: false`, as things are it cannot succeed; no: the request itself is wrong. */
  retry: 'yes' | 'never' | 'no';
  sentence: string;
}

export const catalogue = {
  malformed_request: entry(
    400,
    'invalid_request_error',
    'invalid_request_error',
    'no',
    'The request is not valid HTTP/1.1.',
  ),
  body_malformed: entry(
    400,
    'invalid_request_error',
    'invalid_request_error',
    'no',
    'The body could not be read: send one JSON object, or a form on the audio routes.',
  ),
  invalid_api_key: entry(
    401,
    'invalid_request_error',
    'authentication_error',
    'no',
    'A valid API key is needed: send it as "Authorization: Bearer KEY" or "x-api-key: KEY".',
  ),
  route_not_found: entry(404, 'not_found_error', 'not_found_error', 'no', 'There is no such route here.'),
  endpoint_closed: entry(
    404,
    'not_found_error',
    'not_found_error',
    'no',
    'This model does not open that endpoint: add it to spec.endpoints of the Model.',
  ),
  model_not_found: entry(
    404,
    'invalid_request_error',
    'not_found_error',
    'no',
    'The model does not exist here.',
  ),
  method_not_allowed: entry(
    405,
    'invalid_request_error',
    'invalid_request_error',
    'no',
    'The method is not allowed on this route: the Allow header lists those that are.',
  ),
  request_timeout: entry(
    408,
    'invalid_request_error',
    'invalid_request_error',
    'no',
    'The request did not arrive in time.',
  ),
  body_too_large: entry(
    413,
    'invalid_request_error',
    'request_too_large',
    'no',
    'The body is larger than spec.frontDoor.maxBodyBytes of the Model.',
  ),
  queue_full: entry(
    429,
    'rate_limit_error',
    'rate_limit_error',
    'yes',
    'As many requests wait for this model as spec.frontDoor.maxQueued allows.',
  ),
  queue_bytes_full: entry(
    429,
    'rate_limit_error',
    'rate_limit_error',
    'yes',
    'The bodies that wait for this model or are coming in fill their limit, by spec.frontDoor.maxQueuedBytes.',
  ),
  headers_too_large: entry(
    431,
    'invalid_request_error',
    'invalid_request_error',
    'no',
    'The headers of the request are too large.',
  ),
  engine_died: entry(
    502,
    'server_error',
    'api_error',
    'yes',
    'The engine ended before it answered this request.',
  ),
  engine_bad_response: entry(
    502,
    'server_error',
    'api_error',
    'yes',
    'The engine answered with something that is not a complete HTTP response.',
  ),
  wait_timeout: entry(
    503,
    'server_error',
    'overloaded_error',
    'yes',
    'The model did not wake within spec.frontDoor.maxWait.',
  ),
  model_failed: entry(503, 'server_error', 'api_error', 'yes', 'The model cannot be woken now.'),
  model_unservable: entry(
    503,
    'server_error',
    'api_error',
    'never',
    'The model can never be woken as things are.',
  ),
  pod_ending: entry(
    503,
    'server_error',
    'overloaded_error',
    'yes',
    'This pod is being ended and no other one took the request.',
  ),
} as const satisfies Record<string, Entry>;

export type RefusalCode = keyof typeof catalogue;

function entry(
  status: number,
  openai: string,
  anthropic: string,
  retry: Entry['retry'],
  sentence: string,
): Entry {
  return { status, openai, anthropic, retry, sentence };
}

/** The longest Retry-After that clients take seriously, seconds. */
export const retryAfterSecondsMax = 60;
/** Retry-After when nothing better is known, seconds: about a wake. */
export const retryAfterSecondsDefault = 5;

export interface Refusal {
  code: RefusalCode;
  /** Follows the catalogue's sentence: what is wrong in this very case. */
  detail?: string;
  /** The request's field that is wrong. */
  param?: string;
  /** Milliseconds until it may succeed, where known; null: the default. */
  retryAfterMs?: number | null;
  /** Methods for the Allow header, with method_not_allowed. */
  allow?: string;
}

const messageOf = ({ code, detail }: Refusal): string =>
  detail ? `${catalogue[code].sentence} ${detail}` : catalogue[code].sentence;

/** The error document alone, JSON text on one line. */
export function refusalBody(refusal: Refusal, shape: Shape, requestId: string): string {
  const { openai, anthropic } = catalogue[refusal.code];
  const message = messageOf(refusal);
  return JSON.stringify(
    shape === 'anthropic'
      ? { type: 'error', error: { type: anthropic, message }, request_id: requestId }
      : { error: { message, type: openai, param: refusal.param ?? null, code: refusal.code } },
  );
}

/** Headers that belong to a refusal, beside content-type and content-length. */
export function refusalHeaders(refusal: Refusal): string[] {
  const { retry } = catalogue[refusal.code];
  const headers = ['x-greenthread-refused', refusal.code];
  if (refusal.allow) headers.push('allow', refusal.allow);
  if (retry === 'never') headers.push('x-should-retry', 'false');
  if (retry === 'yes') {
    const seconds =
      refusal.retryAfterMs == null ? retryAfterSecondsDefault : Math.ceil(refusal.retryAfterMs / 1000);
    headers.push('retry-after', String(Math.min(retryAfterSecondsMax, Math.max(1, seconds))));
  }
  return headers;
}

/** A refusal as one server-sent event, for a stream whose headers are out already. */
export function refusalEvent(errorJson: string, shape: Shape): string {
  return shape === 'anthropic' ? `event: error\ndata: ${errorJson}\n\n` : `data: ${errorJson}\n\n`;
}
