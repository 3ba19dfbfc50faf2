/** What an error means: may the same be tried again, and what does a person have to change? */

export type FailureReason =
  | 'BadSettings'
  | 'ModelNotFound'
  | 'RevisionNotFound'
  | 'TokenNeeded'
  | 'NotFoundOrPrivate'
  | 'TokenRefused'
  | 'LicenceNotAccepted'
  | 'HubRefused'
  | 'HubUnreachable'
  | 'HubUnavailable'
  | 'RateLimited'
  | 'BadListing'
  | 'NoWeights'
  | 'NotConvertible'
  | 'BadWeights'
  | 'ChecksumMismatch'
  | 'NoSpace'
  | 'DiskFailed'
  | 'Busy'
  | 'Interrupted'
  | 'Unexpected';

/** An end of the fetch; `message` names the field or value to change. `retry` tells whether the same call may work later. */
export class FetchFailure extends Error {
  readonly reason: FailureReason;
  readonly retry: boolean;
  /** What the server asked for, ms; null: nothing. */
  readonly afterMs: number | null;

  constructor(
    reason: FailureReason,
    message: string,
    options: { retry?: boolean; afterMs?: number | null } = {},
  ) {
    super(message);
    this.reason = reason;
    this.retry = options.retry ?? false;
    this.afterMs = options.afterMs ?? null;
  }
}

/** With one of these a revision known from an earlier fetch may stand in: the hub was not there to ask. */
export const hubIsAway = (failure: FetchFailure): boolean =>
  ['HubUnreachable', 'HubUnavailable', 'RateLimited'].includes(failure.reason);

export interface Asked {
  endpoint: string;
  modelName: string;
  revision: string;
  hasToken: boolean;
}

export interface Refusal {
  status: number;
  /** The hub's X-Error-Code: GatedRepo, RepoNotFound, RevisionNotFound, EntryNotFound, … */
  errorCode: string | null;
  /** The Retry-After header. */
  retryAfter: string | null;
  nowMs: number;
}

/** Longest pause that a server may ask for, ms; beyond it we come back earlier. */
export const retryAfterMsMax = 120_000;

/** @param header seconds or an HTTP date; @returns ms from now, null when it says neither */
export function parseRetryAfter(header: string | null, nowMs: number): number | null {
  if (header === null) return null;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - nowMs;
  return Number.isNaN(ms) ? null : Math.min(Math.max(ms, 0), retryAfterMsMax);
}

const tokenValue =
  "the chart's value controller.huggingFaceToken (or the Secret of controller.huggingFaceSecret)";

/** A status of 401 or 403. The hub answers 401 for a model that does not exist when it does not know who asks. */
function accessFailure(refusal: Refusal, asked: Asked): FetchFailure {
  const { modelName, endpoint, hasToken } = asked;
  if (refusal.errorCode === 'GatedRepo') {
    return hasToken
      ? new FetchFailure(
          'LicenceNotAccepted',
          `${modelName} is gated: accept its licence at ${endpoint}/${modelName} with the account whose token is in ${tokenValue}, and give the token read access to gated models`,
        )
      : new FetchFailure(
          'TokenNeeded',
          `${modelName} is gated: accept its licence at ${endpoint}/${modelName} and set ${tokenValue} to a token of that account`,
        );
  }
  if (!hasToken) {
    return new FetchFailure(
      'NotFoundOrPrivate',
      `${endpoint} shows no model ${modelName} to a client without a token: check spec.modelName for a misspelling; if the model is private, set ${tokenValue}`,
    );
  }
  return new FetchFailure(
    'TokenRefused',
    `the hub refuses our token for ${modelName} (HTTP ${refusal.status}): check that ${tokenValue} is valid, not expired, and may read this model`,
  );
}

/** What an HTTP status that is no success means. */
export function judgeStatus(refusal: Refusal, asked: Asked): FetchFailure {
  const { status, errorCode } = refusal;
  const { endpoint, modelName, revision, hasToken } = asked;
  const afterMs = parseRetryAfter(refusal.retryAfter, refusal.nowMs);
  if (status === 401 || status === 403) return accessFailure(refusal, asked);
  if (status === 404 && errorCode === 'RevisionNotFound') {
    return new FetchFailure(
      'RevisionNotFound',
      `${modelName} has no revision ${revision}: check spec.revision`,
    );
  }
  if (status === 404 && errorCode === 'EntryNotFound') {
    return new FetchFailure('BadListing', `a file that the hub lists for ${modelName} is not there`);
  }
  if (status === 404) {
    return new FetchFailure(
      'ModelNotFound',
      `${endpoint} has no model ${modelName} with revision ${revision}: check spec.modelName and spec.revision${hasToken ? `; if it is private, check that the account whose token is in ${tokenValue} may see it` : ''}`,
    );
  }
  if (status === 429) {
    return new FetchFailure('RateLimited', `${endpoint} limits our requests (HTTP 429): try later`, {
      retry: true,
      afterMs,
    });
  }
  if (status === 408 || status === 425 || status >= 500) {
    return new FetchFailure('HubUnavailable', `${endpoint} fails (HTTP ${status}): try later`, {
      retry: true,
      afterMs,
    });
  }
  return new FetchFailure('HubRefused', `${endpoint} answers HTTP ${status} for ${modelName}`);
}

/** System errors that are the disk's, not the network's. */
const diskCodes = [
  'EIO',
  'EROFS',
  'EACCES',
  'EPERM',
  'ENOTDIR',
  'EISDIR',
  'ENAMETOOLONG',
  'EMFILE',
  'ENFILE',
  'EXDEV',
  'ENOENT',
  'EEXIST',
  'ENOTEMPTY',
  'EBUSY',
  'EBADF',
  'EINVAL',
  'EFBIG',
  'ESTALE',
  'ELOOP',
  'ENODEV',
  'ENXIO',
];

/**
 * What a thrown error means.
 * @param thrown the system error's or undici's code, and what it says
 */
export function judgeError(thrown: { code: string | null; text: string }, asked: Asked): FetchFailure {
  const { code, text } = thrown;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new FetchFailure(
      'NoSpace',
      'the disk under storage.modelsPath is full: make room on this node (docs/weights.md, Cleaning up)',
    );
  }
  if (code !== null && diskCodes.includes(code)) {
    return new FetchFailure('DiskFailed', `the disk under storage.modelsPath: ${text}`);
  }
  return new FetchFailure(
    'HubUnreachable',
    `${asked.endpoint} cannot be reached (${code ?? text}): check the node's network and the chart's values controller.huggingFaceEndpoint, fetchProxy and, for a certificate, fetchCaConfigMap`,
    {
      retry: true,
    },
  );
}

const backoffMsMax = 30_000;

/**
 * The pause before the next try: doubling from `baseMs`, with jitter, and never shorter than the server asked for.
 * @param failures how often it failed in a row, from 1
 * @param chance from 0 to 1
 */
export function retryDelayMs(
  failures: number,
  baseMs: number,
  chance: number,
  afterMs: number | null,
): number {
  const backoff = Math.min(baseMs * 2 ** (failures - 1), backoffMsMax);
  return Math.max(backoff * (0.5 + chance / 2), afterMs ?? 0);
}
