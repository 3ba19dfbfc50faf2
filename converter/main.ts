/**
 * The Job of a Model's files: `node converter/main.ts fetch`, or `convert`, which fetches first and then writes the gthread
 * form. Environment: MODEL_NAME, REVISION (main), MODELS_DIR (/mnt/models), HF_ENDPOINT (https://huggingface.co), HF_TOKEN,
 * KEEP_FREE_PERCENT (11: of a disk that the kubelet has too), CHECK_FORM (`true`: the gthread form is hashed before it is believed),
 * TERMINATION_LOG (/dev/termination-log), PROGRESS_PATH and PROGRESS_KEY (a ConfigMap at the API server; act/tell.ts). Exit code 0
 * when all is published and told, 1 when not, 2 for a wrong command; the termination message is one line of JSON
 * (act/report.ts). `clean` lists, and with --remove removes, what no Model or pod uses (docs/weights.md).
 */
import { parseArgs } from 'node:util';
import { createLog, errorText } from '#platform/log.ts';
import { makeCollector, preferSmallHeap } from './act/memory.ts';
import { failureMessage, type ProgressState, successMessage, writeTermination } from './act/report.ts';
import { createTeller, type Teller } from './act/tell.ts';
import { convertFetched } from './conversion.ts';
import { FetchFailure, judgeError } from './decide/failures.ts';
import { readModelsDir, readSettings } from './decide/settings.ts';
import { fetchRevision } from './loop.ts';

const log = createLog('converter');
const terminationPath = process.env.TERMINATION_LOG || '/dev/termination-log';
const stop = new AbortController();

function end(message: string, code: number): void {
  const unwritten = writeTermination(terminationPath, message);
  // The controller would wait in vain for what a complete Job says: the next try finds all in its place and says it.
  if (unwritten)
    log.error('the termination message was not written: the node may have no room at TERMINATION_LOG', {
      path: terminationPath,
      reason: unwritten,
    });
  process.stdout.write(message);
  process.exitCode = unwritten ? 1 : code;
}

/** Anything thrown, as a failure with a reason. */
function failureOf(error: unknown): FetchFailure {
  if (error instanceof FetchFailure) return error;
  const { code } = error as NodeJS.ErrnoException;
  if (typeof code !== 'string') return new FetchFailure('Unexpected', errorText(error));
  const asked = { endpoint: 'the hub', modelName: '', revision: '', hasToken: false };
  return judgeError({ code, text: errorText(error) }, asked);
}

/** Who tells the cluster; null where the chart names no ConfigMap, or there is no cluster. */
async function makeTeller(): Promise<Teller | null> {
  const { PROGRESS_PATH: path, PROGRESS_KEY: key } = process.env;
  if (!path || !key) return null;
  try {
    const { connect } = await import('#platform/kubernetes/connect.ts');
    return createTeller({ client: await connect(), path, key, log });
  } catch (error) {
    log.warn('progress cannot be told to the cluster', { path, reason: errorText(error) });
    return null;
  }
}

async function work(command: 'fetch' | 'convert'): Promise<void> {
  let part: ProgressState = 'Fetching';
  let teller: Teller | null = null;
  try {
    const settings = readSettings(process.env);
    teller = await makeTeller();
    const options = {
      settings,
      log: log.with({ model: settings.modelName }),
      signal: stop.signal,
      nodeFile: terminationPath,
      print: (line: string): void => {
        process.stdout.write(line);
        teller?.tell(line);
      },
    };
    const fetched = await fetchRevision({
      ...options,
      alsoConverts: command === 'convert',
      onReceived: makeCollector(),
    });
    options.log.info('published', { ...fetched, gthread: null });
    if (command === 'convert') {
      part = 'Converting';
      fetched.gthread = await convertFetched(options, fetched);
      options.log.info('converted', { ...fetched.gthread });
    }
    end(successMessage(fetched), 0);
  } catch (error) {
    const failure = failureOf(error);
    log.error(`the ${command} failed`, { reason: failure.reason, detail: failure.message });
    end(failureMessage(failure, part), 1);
  } finally {
    await teller?.close();
  }
}

/** `clean [--models FILE] [--pods FILE] [--remove] [--all]`: FILE as kubectl prints them, - for stdin; else the API server is asked. */
async function cleanUp(words: string[]): Promise<void> {
  try {
    const { values } = parseArgs({
      args: words,
      options: {
        models: { type: 'string' },
        pods: { type: 'string' },
        remove: { type: 'boolean' },
        all: { type: 'boolean' },
      },
    });
    const { clean } = await import('./cleaning.ts');
    const { readUsers } = await import('./observe/users.ts');
    await clean({
      modelsDir: readModelsDir(process.env),
      ...(await readUsers({ models: values.models ?? null, pods: values.pods ?? null })),
      isRemoving: values.remove ?? false,
      isForAll: values.all ?? false,
      print: (line) => void process.stdout.write(`${line}\n`),
      signal: stop.signal,
      nowMs: Date.now(),
    });
  } catch (error) {
    process.stderr.write(`clean: ${errorText(error)}\n`);
    process.exitCode = 1;
  }
}

async function main(): Promise<void> {
  const [command, ...more] = process.argv.slice(2);
  preferSmallHeap();
  // Engines run as other users and only read.
  process.umask(0o022);
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stop.abort());
  if ((command === 'fetch' || command === 'convert') && more.length === 0) return work(command);
  if (command === 'clean') return cleanUp(more);
  log.error('usage: node converter/main.ts fetch|convert (settings come from the environment), or clean');
  process.exitCode = 2;
}

await main();
