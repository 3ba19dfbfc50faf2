/** One slot of a GPU that two models share: who may be asked, and what the GPU saw. */
import { until } from '../../one-node/programs.ts';

export const models = ['a', 'b'] as const;
export type ModelName = (typeof models)[number];

/** Of each engine's GPU; two do not fit. */
export const share = 0.6;

/** 300 ms to sleep, 300 ms to wake: 0.6 s is the floor of a switch. A token every 20 ms. */
export const simulation = {
  bootSeconds: 0.5,
  sleepMs: 300,
  wakeBaseMs: 300,
  wakeGBPerSecond: 1e6,
  firstTokenMs: 2,
  tokensPerSecond: 50,
};
export const switchFloorMs = simulation.sleepMs + simulation.wakeBaseMs;
const tokenMs = 1_000 / simulation.tokensPerSecond;
/** Tokens of an answer that takes so long. */
export const tokensFor = (ms: number): number => Math.round(ms / tokenMs) + 1;

/** When a victim must go, for those whose waits are bounded; ms. */
export interface Bounds {
  minRuntimeMs: number;
  maxWaitTimeMs: number;
  drainTimeoutMs: number;
}

export interface Slot {
  name: string;
  url(model: ModelName): string;
  /** null: nothing is promised */
  bounds: Bounds | null;
  /** Models whose tokens the GPU saw, in order, without repetition: one switch between each two of them. */
  served(): string[];
  violations(): string[];
}

/** Takes what must be done at the end, also when a slot is interrupted half made. */
export type AtEnd = (close: () => Promise<void>) => void;

export function turns(tokens: { model: string }[]): string[] {
  return tokens.map(({ model }) => model).filter((model, at, all) => model !== all[at - 1]);
}

/** Waits until an engine listens: its log says so. */
export const untilStarted = (what: string, output: () => string): Promise<boolean> =>
  until(what, () => output().includes('Application startup complete'));
