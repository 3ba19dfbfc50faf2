/** One model pod for a test: a front door, a fake agent, a fake engine that is a real HTTP server on engine.sock. */
import { mkdtempSync, rmSync } from 'node:fs';
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLog } from '#platform/log.ts';
import type { State } from '#proto/link.ts';
import { defaultSettings, type Settings } from '#proto/settings.ts';
import { readEnvironment } from '../../../sidecar/decide/environment.ts';
import { type FrontDoor, openFrontDoor } from '../../../sidecar/front-door.ts';
import { FakeAgent } from './fake-agent.ts';

export interface Seen {
  method: string;
  url: string;
  headers: IncomingMessage['headers'];
  rawHeaders: string[];
  body: Buffer;
  /** The client's side of this connection ended before the answer did. */
  aborted: boolean;
}

export class FakeEngine {
  readonly seen: Seen[] = [];
  /** What it does with an inference request; replaced by tests. */
  handle: (seen: Seen, res: ServerResponse, req: IncomingMessage) => void = (seen, res) => {
    res.setHeader('content-type', 'application/json');
    res.end(JSON.stringify({ echo: seen.body.toString() }));
  };
  pages: Record<string, string> = {
    '/metrics':
      '# HELP vllm:num_requests_running r\n# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 0\nprocess_open_fds 9\n',
    '/v1/models': JSON.stringify({
      object: 'list',
      data: [
        {
          id: 'org/llama',
          object: 'model',
          created: 1,
          owned_by: 'vllm',
          root: '/mnt/x',
          parent: null,
          max_model_len: 4096,
          permission: [{ id: 'p' }],
        },
      ],
    }),
  };
  readonly #path: string;
  #server: Server | null = null;

  constructor(path: string) {
    this.#path = path;
  }

  async listen(): Promise<void> {
    rmSync(this.#path, { force: true });
    const listener: RequestListener = (req, res) => {
      const page = req.method === 'GET' ? this.pages[req.url ?? ''] : undefined;
      if (page !== undefined) return void res.end(page);
      const chunks: Buffer[] = [];
      const seen: Seen = {
        method: req.method ?? '',
        url: req.url ?? '',
        headers: req.headers,
        rawHeaders: req.rawHeaders,
        body: Buffer.alloc(0),
        aborted: false,
      };
      res.on('close', () => {
        seen.aborted = !res.writableFinished;
      });
      req.on('data', (chunk: Buffer) => chunks.push(chunk));
      req.on('end', () => {
        seen.body = Buffer.concat(chunks);
        this.seen.push(seen);
        this.handle(seen, res, req);
      });
    };
    this.#server = createServer(listener);
    await new Promise<void>((resolve) => this.#server!.listen(this.#path, resolve));
  }

  /** As a process that dies: every connection breaks, the socket file refuses. */
  die(): void {
    this.#server?.close();
    this.#server?.closeAllConnections();
    this.#server = null;
  }
}

export interface Pod {
  door: FrontDoor;
  agent: FakeAgent;
  engine: FakeEngine;
  dir: string;
  url: string;
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
  /** A TCP connection to the front door; `text` grows with what comes back. */
  raw(): { socket: Socket; text: () => string; closed: () => boolean };
  settings(change: Partial<Settings['frontDoor']>, rest?: Partial<Settings>): void;
  close(): Promise<void>;
}

export interface PodOptions {
  state?: Partial<State>;
  frontDoor?: Partial<Settings['frontDoor']>;
  endpoints?: Settings['endpoints'];
  env?: Record<string, string>;
  engineUp?: boolean;
  agentUp?: boolean;
  log?: (line: string) => undefined;
}

export const settingsOf = (options: PodOptions): Settings => ({
  ...defaultSettings,
  endpoints: options.endpoints ?? [
    'chat_completions',
    'completions',
    'responses',
    'messages',
    'audio_transcriptions',
    'tokenize',
  ],
  frontDoor: { ...defaultSettings.frontDoor, ...options.frontDoor },
});

export const environmentOf = (dir: string, options: PodOptions): Record<string, string> => ({
  POD_UID: 'uid-1',
  POD_NAME: 'llama-0-abcde',
  POD_NAMESPACE: 'team-a',
  GREENTHREAD_MODEL: 'llama',
  GREENTHREAD_MODEL_NAME: 'org/llama',
  GREENTHREAD_ALIASES: 'chatty,org/other',
  GREENTHREAD_REPLICA: '0',
  GREENTHREAD_SETTINGS: JSON.stringify(settingsOf(options)),
  GREENTHREAD_GPU_UUIDS: 'GPU-1,GPU-2',
  GREENTHREAD_SERVICE: 'gt-llama',
  GREENTHREAD_POD_DIR: dir,
  GREENTHREAD_LISTEN_HOST: '127.0.0.1',
  GREENTHREAD_LISTEN_PORT: '0',
  ...options.env,
});

/** Polls until it holds. @throws Error after 5 s */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + 5_000;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export async function openPod(options: PodOptions = {}): Promise<Pod> {
  const dir = mkdtempSync(join(tmpdir(), 'gt-pod-'));
  const agent = new FakeAgent(join(dir, 'agent.sock'), options.state);
  const engine = new FakeEngine(join(dir, 'engine.sock'));
  if (options.engineUp !== false) await engine.listen();
  if (options.agentUp !== false) await agent.listen();
  const log = createLog('sidecar', 'info', options.log ?? (() => undefined));
  const door = await openFrontDoor(readEnvironment(environmentOf(dir, options)), log);
  const url = `http://127.0.0.1:${door.port}`;
  if (options.agentUp !== false) {
    await until(
      'the agent is heard',
      async () => ((await (await fetch(`${url}/status`)).json()) as { agent: string }).agent === 'connected',
    );
    await until('the state is told', () => door.loop.hello().epoch === agent.state.epoch);
  }
  return {
    door,
    agent,
    engine,
    dir,
    url,
    post: (path, body, headers = {}) =>
      fetch(url + path, {
        method: 'POST',
        body: typeof body === 'string' ? body : JSON.stringify(body),
        headers: { 'content-type': 'application/json', ...headers },
      }),
    raw: () => {
      const socket = connect(door.port, '127.0.0.1');
      let text = '';
      let closed = false;
      socket.on('data', (chunk) => {
        text += chunk.toString('latin1');
      });
      socket.on('error', () => {});
      socket.on('close', () => {
        closed = true;
      });
      return { socket, text: () => text, closed: () => closed };
    },
    settings: (change, rest = {}) => {
      const settings = settingsOf({ ...options, frontDoor: { ...options.frontDoor, ...change } });
      agent.say({ settings: { settings: JSON.stringify({ ...settings, ...rest }) } });
    },
    close: async () => {
      await door.close();
      agent.close();
      engine.die();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

export const chat = (more: object = {}) => ({
  model: 'org/llama',
  messages: [{ role: 'user', content: 'hi' }],
  ...more,
});
