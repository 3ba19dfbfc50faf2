/**
 * How long calls to an engine may take. Who calls and who waits for the answer read the same functions, so that nobody is given up
 * while a call that may succeed is under way. All in ms; `bytes` are those of the engine awake, on the GPU that has most of them.
 */

/** Small questions: a busy engine's event loop may take a second. */
export const askMsMax = 3_000;
/** /reset_prefix_cache took 5 ms. */
export const resetMsMax = 10_000;
/** Suspend and resume: the launcher answers within 45 s. */
export const checkpointMsMax = 50_000;
/** vLLM's level 1 copies all weights to host memory: 10.6 s were measured for 16 GB. */
const sleepMsLeast = 120_000;
const wakeMsLeast = 60_000;
/** The slowest copy, and the slowest reading of weights, that is still believed to go on, bytes each ms. */
const copyBytesPerMsMin = (256 * 2 ** 20) / 1_000;
/** What an answer may take from the call's end to those who wait for it. */
const deliveryMsMax = 10_000;

const copyMsMax = (bytes: number): number => Math.ceil(bytes / copyBytesPerMsMin);

/** One /sleep. */
export const sleepCallMsMax = (bytes: number): number => Math.max(sleepMsLeast, copyMsMax(bytes));

/** One /wake_up, or one reading of the weights. */
export const wakeCallMsMax = (bytes: number): number => Math.max(wakeMsLeast, copyMsMax(bytes));

/** What it is: /is_sleeping, and its gauge where that says yes. */
const stateMsMax = 2 * askMsMax;

/** A whole sleep: asked first; the call; then the gauge, the way back of one that was refused, or a checkpoint. */
export const sleepMsMax = (bytes: number): number =>
  stateMsMax + sleepCallMsMax(bytes) + askMsMax + 2 * wakeCallMsMax(bytes) + checkpointMsMax + deliveryMsMax;

/** A whole wake: a checkpoint's restore; the gauge; in up to three calls; the prefix cache; asked twice at the end. */
export const wakeMsMax = (bytes: number): number =>
  checkpointMsMax + askMsMax + 3 * wakeCallMsMax(bytes) + resetMsMax + 2 * stateMsMax + deliveryMsMax;
