/**
 * node test/sim/main.ts [--seeds 500] [--seed 1] [--workers 2] | --bench
 * Runs that many seeds from the given one on. The last line is `N seeds, N violations`; a failing seed is explained above it.
 */
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { bench } from './bench.ts';
import { report, runSeed } from './run.ts';

/** Failing seeds that are shrunk and shown; more are only counted. */
const reportsMax = 3;
const blockSeeds = 50;
const progressEveryMs = 10_000;

interface Block {
  seeds: number;
  decisions: number;
  requests: number;
  failed: { seed: number; kind: string; text: string }[];
}

function runBlock(first: number, count: number): Block {
  const block: Block = { seeds: count, decisions: 0, requests: 0, failed: [] };
  for (let seed = first; seed < first + count; seed++) {
    const result = runSeed(seed);
    block.decisions += result.decisions;
    block.requests += result.requests;
    if (result.violation)
      block.failed.push({ seed, kind: result.violation.kind, text: result.violation.text });
  }
  return block;
}

/** Blocks of seeds, handed to workers as they become free. */
function runAll(first: number, count: number, workers: number): Promise<Block> {
  const total: Block = { seeds: 0, decisions: 0, requests: 0, failed: [] };
  let next = first;
  let shownMs = performance.now();
  const add = (block: Block): void => {
    total.seeds += block.seeds;
    total.decisions += block.decisions;
    total.requests += block.requests;
    total.failed.push(...block.failed);
    if (performance.now() - shownMs < progressEveryMs) return;
    shownMs = performance.now();
    console.error(`${total.seeds} of ${count} seeds, ${total.failed.length} violations`);
  };
  const { promise, resolve, reject } = Promise.withResolvers<Block>();
  let open = 0;
  const take = (worker: Worker): void => {
    const size = Math.min(blockSeeds, first + count - next);
    if (size <= 0) {
      void worker.terminate();
      if (--open === 0) resolve(total);
      return;
    }
    worker.postMessage({ first: next, count: size });
    next += size;
  };
  for (; open < workers; open++) {
    const worker = new Worker(new URL(import.meta.url), { workerData: 'seeds' });
    worker.on('message', (block: Block) => {
      add(block);
      take(worker);
    });
    worker.on('error', reject);
    take(worker);
  }
  return promise;
}

function serveBlocks(): void {
  parentPort!.on('message', ({ first, count }: { first: number; count: number }) => {
    parentPort!.postMessage(runBlock(first, count));
  });
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '500' },
      seed: { type: 'string', default: '1' },
      workers: { type: 'string', default: String(Math.min(2, availableParallelism())) },
      bench: { type: 'boolean', default: false },
    },
  });
  if (values.bench) {
    bench();
    return;
  }
  const [seeds, seed, workers] = [Number(values.seeds), Number(values.seed), Number(values.workers)];
  if (![seeds, seed, workers].every((one) => Number.isSafeInteger(one) && one >= 1)) {
    throw new RangeError('--seeds, --seed and --workers are whole numbers from 1 on');
  }
  const startedMs = performance.now();
  const total = await runAll(seed, seeds, Math.min(workers, Math.ceil(seeds / blockSeeds)));
  const failed = total.failed.sort((a, b) => a.seed - b.seed);
  for (const { seed: bad } of failed.slice(0, reportsMax)) console.log(`${report(runSeed(bad))}\n`);
  for (const { seed: bad, kind, text } of failed.slice(reportsMax))
    console.log(`seed ${bad}: ${kind}: ${text}`);
  const seconds = (performance.now() - startedMs) / 1000;
  console.log(
    `${Math.round(total.decisions / seeds)} decisions and ${Math.round(total.requests / seeds)} requests a seed, ${((seconds * 1000) / seeds).toFixed(1)} ms each, ${seconds.toFixed(1)} s`,
  );
  console.log(`${seeds} seeds, ${failed.length} violations`);
  process.exitCode = failed.length > 0 ? 1 : 0;
}

if (isMainThread) await main();
else if (workerData === 'seeds') serveBlocks();
