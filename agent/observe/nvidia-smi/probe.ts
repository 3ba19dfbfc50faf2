/** One full look at the node's GPUs: `nvidia-smi -q -x`, and what to do when a sick board spoils that call for all. */
import type { GpuReading, Probe, ProbeFault } from '../../decide/facts.ts';
import { faultsOf } from './faults.ts';
import { parseList } from './list.ts';
import { queryTimeoutMs, type RunSmi, type SmiOutput } from './run.ts';
import { identityOnly, parseQuery } from './xml.ts';

/** Faults of the driver as a whole: asking GPU by GPU would only hear them again. */
const driverFaults = new Set([
  'NoDriver',
  'NoPermission',
  'DriverMismatch',
  'DriverNotLoaded',
  'DeviceAccessLost',
  'NVMLFailed',
  'Missing',
]);

/** GPUs asked one by one at most; machines have up to 16. */
const singleQueriesMax = 64;

interface Answer {
  gpus: GpuReading[];
  faults: ProbeFault[];
}

/** What a call told: its complaints first, then what its output says. */
function answerOf(output: SmiOutput): Answer {
  const told = faultsOf(output);
  if (output.outcome !== 'exited') return { gpus: [], faults: told };
  // A call that failed may still have printed a document; one that only complained has no XML to complain about.
  if (told.length > 0 && !output.stdout.includes('<nvidia_smi_log')) return { gpus: [], faults: told };
  const { gpus, faults } = parseQuery(output.stdout);
  return { gpus, faults: [...told, ...faults] };
}

/** Asks again where the first call ran into its deadline: a driver that had to be woken answers the second time. */
async function patiently(run: RunSmi, args: string[], timeoutMs: number): Promise<SmiOutput> {
  const first = await run(args, timeoutMs);
  return first.outcome === 'timed-out' ? run(args, timeoutMs) : first;
}

/** Asks each GPU by itself, all at once: one that hangs must not use up the time of the others. */
async function oneByOne(
  run: RunSmi,
  gpus: { uuid: string; index: number; name: string }[],
  timeoutMs: number,
): Promise<Answer> {
  const answers = await Promise.all(
    gpus.slice(0, singleQueriesMax).map(async ({ uuid, index, name }): Promise<Answer> => {
      const answer = answerOf(await run(['-q', '-x', '-i', uuid], timeoutMs));
      const faults = answer.faults.map((fault) => ({ ...fault, uuid }));
      const own = answer.gpus.find((gpu) => gpu.uuid === uuid);
      // Alone in its document, every GPU would have index 0.
      if (own) return { gpus: [{ ...own, index }], faults };
      return { gpus: [identityOnly({ uuid, index, name, busId: null })], faults };
    }),
  );
  return { gpus: answers.flatMap(({ gpus: read }) => read), faults: answers.flatMap(({ faults }) => faults) };
}

/**
 * Probes all GPUs of this node.
 * @param run how nvidia-smi is called
 * @param options.known GPUs seen before: when nvidia-smi hangs over one board, each of them is asked by itself
 * @param options.timeoutMs deadline of one call; a hanging driver costs it twice, or three times with known GPUs
 * @returns what could be read; never throws, whatever goes wrong is among the faults
 */
export async function probe(
  run: RunSmi,
  options: { known?: readonly { uuid: string; index: number; name: string }[]; timeoutMs?: number } = {},
): Promise<Probe> {
  const { known = [], timeoutMs = queryTimeoutMs } = options;
  const startedAtMs = performance.now();
  const all = await patiently(run, ['-q', '-x'], timeoutMs);
  const whole = answerOf(all);
  const spoilt = whole.gpus.length === 0 || whole.faults.some(({ reason }) => reason.startsWith('Output'));
  if (!spoilt || whole.faults.some(({ reason }) => driverFaults.has(reason)))
    return { startedAtMs, ...whole };
  if (all.outcome === 'timed-out') {
    if (known.length < 2) return { startedAtMs, ...whole };
    return { startedAtMs, ...(await oneByOne(run, [...known], timeoutMs)) };
  }
  const listing = await run(['-L'], timeoutMs);
  const listed = parseList(listing.stdout);
  if (listed.length === 0) return { startedAtMs, ...whole };
  const singles = await oneByOne(run, listed, timeoutMs);
  // Faults that name a board stay; those of the spoilt call as a whole have been looked into.
  const boards = [...whole.faults, ...faultsOf(listing)].filter(({ busId }) => busId !== null);
  return { startedAtMs, gpus: singles.gpus, faults: [...unlike(boards), ...singles.faults] };
}

/** One fault for each board and reason. */
function unlike(faults: ProbeFault[]): ProbeFault[] {
  return [...new Map(faults.map((fault) => [`${fault.busId} ${fault.reason}`, fault])).values()];
}
