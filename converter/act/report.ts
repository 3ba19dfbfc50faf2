/** What the Job tells: progress on stdout, its end on the termination message path. */
import { writeFileSync } from 'node:fs';
import type { FetchFailure } from '../decide/failures.ts';

/** The kubelet keeps 4096 bytes of a termination message; what is around the text takes some. */
const messageLengthMax = 1500;
const progressEveryMs = 1000;

/** The Job's result, as the controller reads it. */
export interface Fetched {
  commit: string;
  /** The published folder. */
  path: string;
  bytes: number;
  files: number;
  /** Files that this run downloaded. */
  downloaded: number;
  /** The same weights in the gthread form, where that was asked for. */
  gthread?: Converted;
}

export interface Converted {
  /** The published folder. */
  path: string;
  /** Of its file `weights`. */
  bytes: number;
  tensors: number;
  /** Bytes that this run wrote. */
  written: number;
  /** What did not agree in the files and was converted all the same (decide/shards.ts). */
  warning?: string;
}

/** What the bytes are counts of: `Converting` of the form's, which are more than the files'. */
export type ProgressState = 'Fetching' | 'Converting';

export class Progress {
  private bytes: number;
  /** Downloaded by this run. */
  private files = 0;
  private readonly state: ProgressState;
  private readonly totalBytes: number;
  private readonly write: (line: string) => void;
  private lastMs = Number.NEGATIVE_INFINITY;

  /** @param write takes one line; @param start `haveBytes` are there before this run */
  constructor(
    write: (line: string) => void,
    start: { state: ProgressState; totalBytes: number; haveBytes: number },
  ) {
    this.write = write;
    this.state = start.state;
    this.totalBytes = start.totalBytes;
    this.bytes = start.haveBytes;
  }

  add(bytes: number, nowMs: number): void {
    this.bytes += bytes;
    if (nowMs - this.lastMs >= progressEveryMs) this.print(nowMs);
  }

  fileDone(): void {
    this.files++;
  }

  print(nowMs: number): void {
    this.lastMs = nowMs;
    const { state, bytes, totalBytes, files } = this;
    this.write(`${JSON.stringify({ type: 'progress', state, bytes, totalBytes, files })}\n`);
  }
}

export const successMessage = (fetched: Fetched): string => `${JSON.stringify(fetched)}\n`;

/** @param part of the work in which it failed */
export function failureMessage(
  failure: Pick<FetchFailure, 'reason' | 'message'>,
  part: ProgressState,
): string {
  const message = failure.message.slice(0, messageLengthMax);
  return `${JSON.stringify({ error: { reason: failure.reason, message, part } })}\n`;
}

/** @returns what went wrong; null: it is written */
export function writeTermination(path: string, message: string): string | null {
  try {
    writeFileSync(path, message);
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}
