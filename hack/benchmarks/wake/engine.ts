/** A real vLLM with the plug-in, on its Unix socket, for hack/bench wake. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const repository = fileURLToPath(new URL('../../..', import.meta.url));
const startSecondsMax = 600;
const requestMsMax = 120_000;

export interface Times {
  seconds: number;
  /** That the thread has had: on a machine that others use as well it tells more than the clock. */
  cpuSeconds: number;
}

export interface Stats {
  pid: number;
  weightsBytes: number;
  last: Record<'sleep' | 'wake', Times>;
}

export class Engine {
  private readonly process: ChildProcess;
  private readonly socket: string;
  private readonly log: string;

  /** @param wake how weights come back: copy or map */
  constructor(options: { python: string; model: string; folder: string; wake: 'copy' | 'map' }) {
    const { python, model, folder, wake } = options;
    this.socket = join(folder, `${wake}.sock`);
    this.log = join(folder, `${wake}.log`);
    const output = openSync(this.log, 'w');
    this.process = spawn(
      python,
      [
        ...['-m', 'vllm.entrypoints.openai.api_server', '--model', model, '--served-model-name', 'm'],
        ...['--dtype', 'float32', '--uds', this.socket, '--enable-sleep-mode', '--enforce-eager'],
        ...['--max-model-len', '1024', '--load-format', 'gthread'],
        ...['--worker-cls', 'gthread.worker.GThreadWorker'],
        ...['--worker-extension-cls', 'memcpy_beside.MemcpyBeside'],
      ],
      {
        detached: true,
        stdio: ['ignore', output, output],
        env: {
          ...process.env,
          PYTHONPATH: [join(repository, 'vllm'), join(repository, 'hack/benchmarks/wake')].join(':'),
          PYTHONDONTWRITEBYTECODE: '1',
          VLLM_SERVER_DEV_MODE: '1',
          VLLM_CPU_KVCACHE_SPACE: '1',
          VLLM_NO_USAGE_STATS: '1',
          HF_HUB_OFFLINE: '1',
          GREENTHREAD_WAKE: wake,
          GREENTHREAD_IMAGE_DIR: join(folder, 'images'),
        },
      },
    );
    closeSync(output);
  }

  /** @throws Error with its last words when it ends or takes too long */
  async ready(): Promise<this> {
    for (let round = 0; round < startSecondsMax * 4; round++) {
      if (this.process.exitCode !== null || this.process.signalCode !== null) break;
      const status = await this.call('GET', '/health').then(
        () => true,
        () => false,
      );
      if (status) return this;
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
    throw new Error(`vLLM did not start: ${readFileSync(this.log, 'utf8').slice(-2000)}`);
  }

  /** @returns the answer's JSON, undefined when it has no body. @throws Error unless it is 200 */
  call(method: 'GET' | 'POST', path: string, body?: object): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const text = body === undefined ? undefined : JSON.stringify(body);
      const headers = text === undefined ? {} : { 'content-type': 'application/json' };
      const sent = request(
        { socketPath: this.socket, method, path, headers, timeout: requestMsMax },
        (answer) => {
          const parts: Buffer[] = [];
          answer.on('data', (part: Buffer) => parts.push(part));
          answer.on('error', reject);
          answer.on('end', () => {
            const content = Buffer.concat(parts).toString();
            if (answer.statusCode !== 200)
              reject(new Error(`${path}: ${answer.statusCode} ${content.slice(0, 500)}`));
            else resolve(content === '' ? undefined : JSON.parse(content));
          });
        },
      );
      sent.on('timeout', () => sent.destroy(new Error(`${path}: no answer in ${requestMsMax} ms`)));
      sent.on('error', reject);
      sent.end(text);
    });
  }

  async rpc<T>(method: string): Promise<T> {
    const { results } = (await this.call('POST', '/collective_rpc', { method })) as { results: [T] };
    return results[0];
  }

  /** @returns milliseconds */
  async timed(path: string): Promise<number> {
    const since = performance.now();
    await this.call('POST', path);
    return performance.now() - since;
  }

  async complete(tokens: number): Promise<string> {
    const question = {
      model: 'm',
      prompt: 'hello world',
      max_tokens: tokens,
      temperature: 0,
      ignore_eos: true,
    };
    const answer = (await this.call('POST', '/v1/completions', question)) as { choices: [{ text: string }] };
    return answer.choices[0].text;
  }

  /** Its whole session ends. */
  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.process.once('exit', resolve));
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      if (this.process.exitCode !== null || this.process.signalCode !== null) break;
      try {
        process.kill(-this.process.pid!, signal);
      } catch {
        break; // it has ended
      }
      await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 20_000))]);
    }
    rmSync(this.socket, { force: true });
  }
}
