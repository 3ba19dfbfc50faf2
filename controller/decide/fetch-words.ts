/** What the converter says of its work: its last word on the termination message path, its progress in the ConfigMap. */
import type { ObjectCondition, Pod, ProgressNotes } from './kubernetes.ts';
import { quoted } from './shortened.ts';

/** Of which part of the work bytes are counted, or in which it failed. */
export type FetchPart = 'Fetching' | 'Converting';

export interface FetchedForm {
  path: string;
  bytes: number | null;
  /** What did not agree in the files and was converted all the same. */
  warning?: string;
}

export interface FetchResult {
  /** The upstream files' folder. */
  path: string;
  commit: string;
  bytes: number | null;
  /** The gthread form, where the Job was to write it. */
  gthread: FetchedForm | null;
}

export interface FetchFault {
  reason: string;
  message: string;
  part: FetchPart;
}

export interface FetchProgress {
  part: FetchPart;
  bytes: number;
  totalBytes: number;
}

const numberOrNull = (value: unknown): number | null => (typeof value === 'number' ? value : null);
const partOf = (value: unknown): FetchPart => (value === 'Converting' ? value : 'Fetching');

/** The object on a text's last line; null when there is none. */
function parseObject(text: string | undefined): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse((text ?? '').trim().split('\n').at(-1) ?? '');
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

const formOf = (form: Record<string, unknown> | null | undefined): FetchedForm | null =>
  typeof form?.path === 'string'
    ? {
        path: form.path,
        bytes: numberOrNull(form.bytes),
        ...(typeof form.warning === 'string' && { warning: quoted(form.warning) }),
      }
    : null;

export function parseResult(text: string | undefined): FetchResult | null {
  const value = parseObject(text);
  if (!value || typeof value.path !== 'string' || typeof value.commit !== 'string') return null;
  return {
    path: value.path,
    commit: value.commit,
    bytes: numberOrNull(value.bytes),
    gthread: formOf(value.gthread as Record<string, unknown> | null | undefined),
  };
}

/** The text that the converter left as its last word, of the newest pod that left one. */
const lastWords = (pods: Pod[]): string[] =>
  pods.flatMap((pod) =>
    (pod.status?.containerStatuses ?? []).flatMap((container) => container.state?.terminated?.message ?? []),
  );

export function resultOf(pods: Pod[]): FetchResult | null {
  for (const text of lastWords(pods)) {
    const result = parseResult(text);
    if (result) return result;
  }
  return null;
}

/** What the converter said of its failure, by the newest pod that said anything. */
export function saidFault(pods: Pod[]): FetchFault | null {
  for (const text of lastWords(pods)) {
    const error = parseObject(text)?.error as
      | { reason?: unknown; message?: unknown; part?: unknown }
      | undefined;
    if (typeof error?.message !== 'string') continue;
    const isName = typeof error.reason === 'string' && /^[A-Za-z][A-Za-z0-9]*$/.test(error.reason);
    return {
      reason: isName ? (error.reason as string) : 'FetchFailed',
      message: quoted(error.message),
      part: partOf(error.part),
    };
  }
  return null;
}

/** The converter's reasons that may pass by themselves: the Job's next attempt decides. */
const passingReasons = [
  'HubUnreachable',
  'HubUnavailable',
  'RateLimited',
  'ChecksumMismatch',
  'DiskFailed',
  'Busy',
  'Interrupted',
  'Unexpected',
  'FetchFailed',
];

/** A failure that a person must mend is told before the Job has used up its attempts. */
export function hopelessFault(pods: Pod[]): FetchFault | null {
  const said = saidFault(pods);
  return said && !passingReasons.includes(said.reason) ? said : null;
}

/** Why a Job failed that has used up its attempts. */
export function faultOf(pods: Pod[], failed: ObjectCondition): FetchFault {
  const said = saidFault(pods);
  if (said) return said;
  const detail = lastWords(pods)[0] ?? failed.message ?? failed.reason ?? 'no reason was given';
  return {
    reason: 'FetchFailed',
    message: `the fetch Job failed: ${quoted(detail)}`,
    part: 'Fetching',
  };
}

/** An image that cannot be had: the Job itself would wait in silence. */
export function imageFault(pods: Pod[]): FetchFault | null {
  const waiting = pods[0]?.status?.containerStatuses?.[0]?.state?.waiting;
  if (!waiting?.reason || !/^(ErrImage|ImagePull|InvalidImage|Create|Run)/.test(waiting.reason)) return null;
  return {
    reason: waiting.reason.startsWith('ErrImage') ? 'ImagePullBackOff' : waiting.reason,
    message: `the fetch Job's pod: ${quoted(waiting.message ?? waiting.reason)}`,
    part: 'Fetching',
  };
}

/** Why the newest pod cannot be placed; null when it can. */
export const unschedulable = (pods: Pod[]): string | null =>
  pods[0]?.status?.conditions?.find(({ type, status }) => type === 'PodScheduled' && status === 'False')
    ?.message ?? null;

/** What a running Job last told of its bytes; null when it has told nothing. */
export function progressOf(notes: ProgressNotes | undefined, job: string): FetchProgress | null {
  const value = parseObject(notes?.data?.[job]);
  const bytes = numberOrNull(value?.bytes);
  const totalBytes = numberOrNull(value?.totalBytes);
  const isSane =
    Number.isSafeInteger(bytes) && Number.isSafeInteger(totalBytes) && bytes! >= 0 && bytes! <= totalBytes!;
  return isSane ? { part: partOf(value?.state), bytes: bytes!, totalBytes: totalBytes! } : null;
}
