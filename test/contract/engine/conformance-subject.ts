/** Whom the conformance tests are about. */
import type { EngineClient } from '../engine-client.ts';

export interface Subject {
  /** Serves `org/model`, also as `alias`, with a context of 2048 tokens; awake. */
  engine: EngineClient;
  /** Bytes that count as its GPU memory, now. */
  held(): Promise<number>;
  /** Of its weights, on each GPU. */
  weightsBytes: number;
  /** Until this is called each of its sleeps fails before anything is freed, as where an image cannot be written. */
  letSleep(): Promise<void>;
}

/** A measured fall or rise may miss the weights' size by this: allocators, threads, pages at the ends of tensors. */
export const bytesOff = 48 * 2 ** 20;

export const contextTokens = 2048;

/** Tokens that do not depend on chance, known by their ids, and as many as asked for. */
export const greedy = { temperature: 0, ignore_eos: true, return_token_ids: true } as const;
