/** The arbiter's bounds, each with its unit and where it comes from. docs/arbiter.md derives from these. */

const MiB = 2 ** 20;
const GiB = 2 ** 30;

/** What a sleeper counts until it was measured : docs/arbiter.md. */
export const residueUnmeasuredBytes = 1.5 * GiB;
/** A sleeper may always keep this much; CUDA contexts alone take several hundred MiB. */
export const residueAllowedBytes = 1 * GiB;
/** Beyond this multiple of its first residue it is restarted. */
export const residueGrowthMax = 1.25;
/** A sleep that frees less than this share of the awake bytes is no sleep at all, also the first time. */
export const sleepFreesShareMin = 0.5;
/** Two measurements this near to one another say that memory has stopped moving. */
export const stillBytes = 16 * MiB;
/** Room that an awake engine may take late (late buffers, other batch shapes), on top of its measured peak. */
export const headRoomBytes = 256 * MiB;

/** A turn is never longer than this. */
export const turnMsMax = 60_000;
/** A turn is this many times the measured cost of a switch: switching eats at most a fifth. */
export const turnSwitchFactor = 4;
/** An occupant whose last request ended so recently is not idle yet: a client's next call is usually on its way. */
export const lingerMs = 10;
/** One whose sleep was called off by its own clients is left alone for so long: a barrier costs them a few ms, a waiter all of this. */
export const calledOffPauseMs = 100;

/** From this wait on a waiter goes by age alone, whatever others' priority. */
export const wakeAgedMs = 30_000;
/** The same for a boot, which keeps a GPU busy for longer. */
export const bootAgedMs = 60_000;
/** A boot that nobody waits for may force a busy occupant out only from this wait on. */
export const idleBootPatienceMs = 30_000;
/** In a roll the old pod does not wake before the new one has booted, for at most this long. */
export const rollPrecedenceMs = 120_000;
/** In a roll the old pod's queue is left to its end, for at most this long after the new one serves. */
export const rollHandOverMs = 30_000;

/** A sidecar that was told of a barrier answers within this, or an idle sleep is called off. */
export const barrierAnswerMsMax = 5_000;
/** How long the bytes of a sleeper may take to fall and stop moving. */
export const freeingMsMax = 10_000;
/** Pause between two measurements while memory moves. */
export const measureEveryMs = 50;
/** The same when the driver does not show free what the books do. */
export const measureAgainMs = 500;
/** The same when a GPU has not told what is hoped for over `freeingMsMax`. */
export const measureSlowlyEveryMs = 2_000;
/** An engine or a driver whose answer to a question never came is asked again. Sleeps and wakes: `agent/decide/engine-times.ts`. */
export const engineAnswerMsMax = 180_000;
/** A boot may take this long; compiling a large model takes minutes. */
export const bootMsMax = 30 * 60_000;
/** An engine that was told to end has ended by then, or is told again. */
export const restartMsMax = 60_000;
/** A boot's measurement is awaited this long after the engine is ready. */
export const bootMeasureMsMax = 10_000;

/** Failed wakes of one engine in a row before it is restarted. */
export const wakeTriesMax = 3;
/**
 * Failed sleeps of one engine in a row before somebody who waits for its room gets it by a restart. The last of them begins only
 * when nothing runs in the engine, so that the restart cuts nobody's answer.
 */
export const sleepTriesMax = 3;
/** A sidecar that is away this long is not waited for before that last try. */
export const unheardMsMax = 30_000;
/** Unanswered questions to one engine before it is restarted. */
export const askTriesMax = 5;
/** One that serves is asked this often whether it still answers, and this many silent answers in a row are trouble. */
export const probeEveryMs = 30_000;
export const silencesMax = 3;
/** First pause before a wake, a sleep or a question is tried again; doubles. */
export const retryMsFirst = 500;
export const retryMsMax = 30_000;
/** First pause before an engine that died boots again; doubles. */
export const bootBackoffMsFirst = 1_000;
export const bootBackoffMsMax = 5 * 60_000;
/** Failures in a row from which on clients are told FAILED. */
export const failuresToFail = 3;
/** An engine that ran this long since it was ready starts the count anew. */
export const healthyMs = 10 * 60_000;

/** A launcher that is away this long and did not come back has lost its lease: the engine is asked. */
export const leaseGraceMs = 5_000;
/** Without any list from the API server, grants wait this long after the start. */
export const apiGraceMs = 10_000;
/** A pod that ends: how long a sidecar may be away before its launcher is released. */
export const endWithoutSidecarMs = 3_000;
/**
 * A pod without an engine that is deleted and whose launcher says nothing of its end: SIGTERM came before launcher or sidecar,
 * each process 1 of its container, could hear it, and comes only once.
 */
export const endUnsaidMs = 2_000;
/** How long an end waits for a boot on the same GPU, whose engine asserts that free memory does not grow. */
export const endBehindBootMsMax = 10_000;
/** The pod's grace beyond its drainTimeout is 30 s (the controller's pods); this much of it is used. */
export const endMarginMs = 20_000;
/** The rest of a pod's grace, which is the engine's own end; of a short grace a third. */
export const endReserveMs = 10_000;
export const endReserveShareMax = 1 / 3;
/** A GPU out of use this long fails those who wait for it. */
export const gpuPatienceMs = 60_000;
/** When clients of a model that failed for a reason that may pass should try again. */
export const failedRetryMs = 30_000;
/** A stranger's memory must have stood this long before it makes a need unmeetable. */
export const strangerMs = 10_000;
/** A step that comes this late after its timer means that time stood still for us: deadlines are moved by it. */
export const stallMs = 5_000;

/** Longest part of an engine's last words that is passed on, characters. */
export const tailCharactersMax = 300;
/** Arrival gaps older than this many are forgotten (weight of the moving average). */
export const averageWeight = 0.3;
/** Horizon over which the return of a victim's clients is judged. */
export const returnHorizonMs = 60_000;
/** More candidates than this are searched greedily, not exhaustively. */
export const exactVictimsMax = 10;
