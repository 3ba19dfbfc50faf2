/**
 * Agent <-> launcher, over grant.sock in the pod's own directory: one JSON object a line, each with `v` and `type`.
 * The agent listens, the launcher dials. The open connection is the lease on the VRAM: when it closes and the launcher
 * does not come back, the agent trusts only what the GPU measures.
 *
 * Launcher                                   Agent
 *   ask {uuids, bytes, restarts, engine}  ->
 *                                         <- wait {reason, message}        as often as the reason changes
 *                                         <- grant {id, bytes}             start the engine now
 *   started {pid}                         ->
 *   ready                                 ->                               its /health answered 200
 *   exited {code, signal, tail, reason?}  ->                               it asks again 1 to 60 s later, on the same connection
 *                                         <- restart {reason, message}     end the engine, ask again
 *                                         <- drained                       SIGTERM may reach the engine now; without an
 *                                                                            engine: the pod is deleted, end, SIGTERM or not
 *                                         <- suspend {call}                of an engine that sleeps: what it holds on its GPU still
 *                                                                            goes to host memory (CUDA checkpoint)
 *                                         <- resume {call}                 and back, before the engine is woken
 *   checkpointed {call, outcome, ...}     ->                               answers either
 *   ending                                ->                               the launcher got SIGTERM
 * After a reconnect the launcher's first line is `holding` when an engine runs, else `ask`.
 * Unknown types are ignored, unknown fields too, so neighbouring releases work together.
 */

/** Version of the line format. */
export const grantProtocol = 1;

/** Longest line either side reads, bytes; a longer one closes the connection. */
export const grantLineBytesMax = 64 * 1024;

export interface Ask {
  v: number;
  type: 'ask';
  podUid: string;
  uuids: string[];
  /** Bytes wanted on each GPU: what the engine will take while awake. */
  bytes: number;
  /** How often this container's engine was started before. */
  restarts: number;
  /** The launcher knows suspend and resume; absent: it is of a release that does not. */
  suspends?: boolean;
}

export interface Holding {
  v: number;
  type: 'holding';
  podUid: string;
  uuids: string[];
  bytes: number;
  restarts: number;
  /** The grant under which the engine runs. */
  id: string;
  pid: number;
  ready: boolean;
  suspends?: boolean;
  /** Its CUDA state is, or may be, in a checkpoint: resume it before a wake. */
  suspended?: boolean;
}

/** The answer to suspend or resume. */
export interface Checkpointed {
  v: number;
  type: 'checkpointed';
  /** As in the call. */
  call: number;
  operation: 'suspend' | 'resume';
  /**
   * `not-offered`: this driver, container or engine cannot be suspended, nothing was changed; `failed`: nothing was changed, it may be
   * tried again; `broken`: the driver lost the engine's state, and the launcher ends it (`exited` follows).
   */
  outcome: 'done' | 'not-offered' | 'failed' | 'broken';
  /** CamelCase; empty when done. */
  reason: string;
  /** A sentence with the remedy; empty when done. */
  message: string;
}

export type FromLauncher =
  | Ask
  | Holding
  | { v: number; type: 'started'; pid: number }
  | { v: number; type: 'ready' }
  | {
      v: number;
      type: 'exited';
      code: number | null;
      signal: string | null;
      tail: string;
      /** CamelCase, where the launcher knows why: `GpuNotInjected`, `EngineNotFound`, `EngineSocketStuck`, `CheckpointBroken`. */
      reason?: string;
      message?: string;
    }
  | Checkpointed
  | { v: number; type: 'ending' };

export type ToLauncher =
  | { v: number; type: 'wait'; reason: string; message: string }
  | { v: number; type: 'grant'; id: string; bytes: number }
  | { v: number; type: 'restart'; reason: string; message: string }
  | { v: number; type: 'suspend' | 'resume'; call: number }
  | { v: number; type: 'drained' };
