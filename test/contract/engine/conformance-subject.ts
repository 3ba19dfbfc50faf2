/** Whom the conformance tests are about. */
import type { EngineClient } from '../engine-client.ts';

export interface Subject {
  /** Serves `org/model`, also as `alias`, with a context of 2048 tokens; awake. */
  engine: EngineClient;
  /** Bytes that count as its GPU memory, now. */
  held(): Promise<number>;
  /** Of its weights, on each GPU. */
  weightsBytes: number;
}

export const contextTokens = 2048;

/** Tokens that do not depend on chance, known by their ids, and as many as asked for. */
export const greedy = { temperature: 0, ignore_eos: true, return_token_ids: true } as const;
