/**
 * The fetch Job: `node converter/main.ts fetch`. Environment: MODEL_NAME, REVISION (main), MODELS_DIR (/mnt/models),
 * HF_ENDPOINT (https://huggingface.co), HF_TOKEN, TERMINATION_LOG (/dev/termination-log). Exit code 0 when the files are
 * published, 1 when not, 2 for a wrong command; the termination message is one line of JSON (act/report.ts).
 */
import { createLog, errorText } from '#platform/log.ts';
import { makeCollector } from './act/memory.ts';
import { failureMessage, successMessage, writeTermination } from './act/report.ts';
import { FetchFailure, judgeError } from './decide/failures.ts';
import { readSettings } from './decide/settings.ts';
import { fetchRevision } from './loop.ts';

const log = createLog('converter');
const terminationPath = process.env.TERMINATION_LOG || '/dev/termination-log';
const stop = new AbortController();

function end(message: string, code: number): void {
  const unwritten = writeTermination(terminationPath, message);
  if (unwritten) log.warn('the termination message was not written', { reason: unwritten });
  process.stdout.write(message);
  process.exitCode = code;
}

/** Anything thrown, as a failure with a reason. */
function failureOf(error: unknown): FetchFailure {
  if (error instanceof FetchFailure) return error;
  const { code } = error as NodeJS.ErrnoException;
  if (typeof code !== 'string') return new FetchFailure('Unexpected', errorText(error));
  const asked = { endpoint: 'the hub', modelName: '', revision: '', hasToken: false };
  return judgeError({ code, text: errorText(error) }, asked);
}

async function main(): Promise<void> {
  if (process.argv[2] !== 'fetch' || process.argv.length > 3) {
    log.error('usage: node converter/main.ts fetch (settings come from the environment)');
    process.exitCode = 2;
    return;
  }
  // Engines run as other users and only read.
  process.umask(0o022);
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stop.abort());
  try {
    const settings = readSettings(process.env);
    const fetched = await fetchRevision({
      settings,
      log: log.with({ model: settings.modelName }),
      signal: stop.signal,
      onReceived: makeCollector(),
      print: (line) => void process.stdout.write(line),
    });
    log.info('published', { ...fetched });
    end(successMessage(fetched), 0);
  } catch (error) {
    const failure = failureOf(error);
    log.error('the fetch failed', { reason: failure.reason, detail: failure.message });
    end(failureMessage(failure), 1);
  }
}

await main();
