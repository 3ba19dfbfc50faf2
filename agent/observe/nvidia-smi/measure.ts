/** GPU memory, quickly: two CSV queries side by side, the processes summed by pod. */
import type { GpuMeasurement, ProbeFault, ProcessReading } from '../../decide/facts.ts';
import { type Owner, ownerOf } from '../process-pods.ts';
import { gpuQueryArgs, parseGpuRows, parseProcessRows, processQueryArgs, type QuickReading } from './csv.ts';
import { faultsOf } from './faults.ts';
import { parseList } from './list.ts';
import { quickTimeoutMs, type RunSmi, type SmiOutput } from './run.ts';

/** For how long only the GPUs that answered are asked after one had spoilt the call for all; then all are tried again, ms. */
const spoiltMs = 15_000;
/** GPUs asked one by one at most. */
const singleQueriesMax = 64;

/** Why nothing could be measured. */
export class MeasureError extends Error {
  readonly fault: ProbeFault;

  constructor(fault: ProbeFault) {
    super(`${fault.reason}: ${fault.message}`);
    this.name = 'MeasureError';
    this.fault = fault;
  }
}

/** Faults of one board that spoil the answer for all; the driver's own would only be heard again. */
const spoilers = new Set([
  'GpuLost',
  'ResetRequired',
  'ProbeTimeout',
  'OutputEmpty',
  'OutputUnreadable',
  'ProbeFailed',
]);

export interface MeasureOptions {
  run: RunSmi;
  /** Whether a pod is one of ours; the memory of all others is foreign. */
  isModelPod(podUid: string): boolean;
  owner?: (pid: number) => Promise<Owner>;
  timeoutMs?: number;
}

function good(output: SmiOutput): string {
  const [fault] = faultsOf(output);
  if (fault && (output.outcome !== 'exited' || output.exitCode !== 0)) throw new MeasureError(fault);
  return output.stdout;
}

function parsed<T>(parse: (stdout: string) => T, output: SmiOutput): T {
  const stdout = good(output);
  try {
    return parse(stdout);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new MeasureError({
      reason: stdout.trim() === '' ? 'OutputEmpty' : 'OutputUnreadable',
      message,
      busId: null,
    });
  }
}

/** Processes by GPU; one GPU's memory where the driver knows all three figures, else that GPU is left out. */
function combine(
  gpus: QuickReading[],
  processes: (ProcessReading & { owner: Owner })[],
  isModelPod: (podUid: string) => boolean,
): GpuMeasurement[] {
  return gpus.flatMap((gpu) => {
    const { totalBytes, usedBytes, freeBytes } = gpu;
    if (totalBytes === null || usedBytes === null || freeBytes === null) return [];
    const byPod: Record<string, number> = {};
    const unmeasured = new Set<string>();
    let foreignBytes = 0;
    for (const { gpuUuid, bytes, owner } of processes) {
      // A process that has ended is in nobody's sum: what it still holds is the driver's to give back.
      if (gpuUuid !== gpu.uuid || owner === 'gone') continue;
      if (owner === 'outside' || !isModelPod(owner.podUid)) foreignBytes += bytes ?? 0;
      else if (bytes === null) unmeasured.add(owner.podUid);
      else byPod[owner.podUid] = (byPod[owner.podUid] ?? 0) + bytes;
    }
    return [
      {
        ...gpu,
        totalBytes,
        usedBytes,
        freeBytes,
        byPod,
        foreignBytes,
        ...(unmeasured.size > 0 && { unmeasuredPods: [...unmeasured] }),
      },
    ];
  });
}

/**
 * Makes the quick measurement. Only one is under way at a time; whoever calls meanwhile shares the one after it, so what is
 * returned was always read after the call: the time of the call is a sound `startedAtMs`.
 * @returns a function that rejects with a MeasureError when nvidia-smi fails or its answer cannot be read
 */
export function createMeasure(options: MeasureOptions): () => Promise<GpuMeasurement[]> {
  const { run, isModelPod, owner = ownerOf, timeoutMs = quickTimeoutMs } = options;
  let running: Promise<GpuMeasurement[]> | null = null;
  let next: Promise<GpuMeasurement[]> | null = null;
  /** The GPUs that answer while another one spoils the call for all. */
  let only: { uuids: string[]; untilMs: number } | null = null;
  let trying = false;
  /** GPUs of the last good answer: when even the listing hangs. */
  let lately: string[] = [];

  async function ask(uuids: string[] | null, again: boolean): Promise<GpuMeasurement[]> {
    const which = uuids ? ['-i', uuids.join(',')] : [];
    const [gpuOutput, processOutput] = await Promise.all([
      run([...gpuQueryArgs, ...which], timeoutMs, again),
      run([...processQueryArgs, ...which], timeoutMs, again),
    ]);
    const gpus = parsed(parseGpuRows, gpuOutput);
    const processes = parsed(parseProcessRows, processOutput);
    const pids = [...new Set(processes.map(({ pid }) => pid))];
    const owners = new Map(await Promise.all(pids.map(async (pid) => [pid, await owner(pid)] as const)));
    return combine(
      gpus,
      processes.map((process) => ({ ...process, owner: owners.get(process.pid)! })),
      isModelPod,
    );
  }

  /** Asks each GPU by itself after the call for all has failed. @throws the first failure when none answers */
  async function askSingly(failure: MeasureError): Promise<GpuMeasurement[]> {
    const { reason } = failure.fault;
    // Where a call hangs, so does the listing.
    const uuids =
      reason === 'ProbeTimeout'
        ? lately
        : parseList((await run(['-L'], timeoutMs)).stdout).map(({ uuid }) => uuid);
    const asked = await Promise.allSettled(
      uuids.slice(0, singleQueriesMax).map((uuid) => ask([uuid], false)),
    );
    const gpus = asked.flatMap((result) => (result.status === 'fulfilled' ? result.value : []));
    if (gpus.length === 0) throw failure;
    only = { uuids: gpus.map(({ uuid }) => uuid), untilMs: performance.now() + spoiltMs };
    return gpus;
  }

  /** Tries all GPUs again beside the measurements: nobody waits for a board that may still hang. */
  function tryAll(): void {
    trying = true;
    void ask(null, false)
      .then(
        () => {
          only = null;
        },
        () => {
          if (only) only.untilMs = performance.now() + spoiltMs;
        },
      )
      .finally(() => {
        trying = false;
      });
  }

  async function once(): Promise<GpuMeasurement[]> {
    if (only && !trying && performance.now() > only.untilMs) tryAll();
    try {
      const gpus = await ask(only?.uuids ?? null, true);
      lately = gpus.map(({ uuid }) => uuid);
      return gpus;
    } catch (error) {
      if (!(error instanceof MeasureError) || !spoilers.has(error.fault.reason)) throw error;
      only = null;
      return await askSingly(error);
    }
  }

  function start(): Promise<GpuMeasurement[]> {
    const now = once().finally(() => {
      if (running === now) running = null;
    });
    running = now;
    return now;
  }

  return () => {
    if (next) return next;
    if (!running) return start();
    next = running
      .catch(() => undefined)
      .then(() => {
        next = null;
        return start();
      });
    return next;
  };
}
