/** What may go wrong at the stub, once or for ever, so that a fetch can be shown to survive it. */

export type FaultKind =
  /** Answers `status`, with Retry-After when given. */
  | { kind: 'status'; status: number; retryAfterSeconds?: number }
  /** Sends `bytes` of the body, then cuts the connection. */
  | { kind: 'truncated'; bytes: number }
  /** Sends at most so many bytes a second. */
  | { kind: 'slow'; bytesPerSecond: number }
  /** Flips one bit of the body's last byte. */
  | { kind: 'corrupt' }
  /** Answers 200 with the whole file to a Range request. */
  | { kind: 'noRange' };

export type Fault = FaultKind & {
  /** `org/name`; every model when absent. */
  model?: string;
  /** A file's path; absent: every file. */
  path?: string;
  /** `api`: lists and revisions; `file` (default): contents. */
  where?: 'api' | 'file';
  /** How often; absent: once; 0: for ever. */
  times?: number;
};

/** The faults in force; each counts itself down. */
export class Faults {
  private pending: { fault: Fault; left: number }[] = [];

  add(...faults: Fault[]): void {
    this.pending.push(
      ...faults.map((fault) => ({
        fault,
        left: fault.times === 0 ? Number.POSITIVE_INFINITY : (fault.times ?? 1),
      })),
    );
  }

  clear(): void {
    this.pending = [];
  }

  /** The first fault of the answer itself (`status`) or of its body that fits this request; it is used up by one. */
  take(
    part: 'status' | 'body',
    request: { where: 'api' | 'file'; model: string; path: string },
  ): Fault | null {
    const { where, model, path } = request;
    const entry = this.pending.find(
      ({ fault }) =>
        (part === 'status') === (fault.kind === 'status') &&
        (fault.where ?? 'file') === where &&
        (fault.model === undefined || fault.model === model) &&
        (fault.path === undefined || fault.path === path),
    );
    if (!entry) return null;
    entry.left -= 1;
    if (entry.left <= 0) this.pending.splice(this.pending.indexOf(entry), 1);
    return entry.fault;
  }
}
