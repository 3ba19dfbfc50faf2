/** A real grpc-js server on agent.sock that says what a test wants said and keeps what it hears. */
import { rmSync } from 'node:fs';
import { Server, ServerCredentials, type ServerDuplexStream } from '@grpc/grpc-js';
import { type FromAgent, type FromSidecar, type Hello, linkService, type State } from '#proto/link.ts';

type Stream = ServerDuplexStream<FromSidecar, FromAgent>;

export class FakeAgent {
  readonly heard: FromSidecar[] = [];
  readonly hellos: Hello[] = [];
  /** What a new stream is answered with. */
  state: State;
  #server: Server | null = null;
  #streams = new Set<Stream>();
  readonly #path: string;

  constructor(path: string, state: Partial<State> = {}) {
    this.#path = path;
    this.state = asState(state);
  }

  async listen(): Promise<void> {
    rmSync(this.#path, { force: true });
    const server = new Server();
    server.addService(linkService, {
      attach: (stream: Stream) => {
        this.#streams.add(stream);
        stream.on('data', (message: FromSidecar) => {
          this.heard.push(message);
          if (!message.hello) return;
          this.hellos.push(message.hello);
          stream.write({ welcome: { protocol: 1, release: 'test' } });
          stream.write({ state: this.state });
        });
        const gone = () => this.#streams.delete(stream);
        stream.on('error', gone);
        stream.on('end', () => {
          gone();
          stream.end();
        });
        stream.on('cancelled', gone);
      },
    });
    await new Promise<void>((resolve, reject) =>
      server.bindAsync(`unix:${this.#path}`, ServerCredentials.createInsecure(), (error) =>
        error ? reject(error) : resolve(),
      ),
    );
    this.#server = server;
  }

  say(message: FromAgent): void {
    for (const stream of this.#streams) stream.write(message);
  }

  /** Tells a state under the next epoch, or the given one. */
  tell(state: State['state'], more: Partial<State> = {}): void {
    this.state = asState({ epoch: this.state.epoch + 1, bootReady: this.state.bootReady, ...more, state });
    this.say({ state: this.state });
  }

  raise(more: { epoch?: number; drainTimeoutMs?: number } = {}): number {
    const epoch = more.epoch ?? this.state.epoch + 1;
    this.state = asState({ ...this.state, epoch });
    this.say({ barrier: { epoch, drainTimeoutMs: more.drainTimeoutMs ?? 30_000 } });
    return epoch;
  }

  get connected(): boolean {
    return this.#streams.size > 0;
  }

  close(): void {
    this.#server?.forceShutdown();
    this.#server = null;
    this.#streams.clear();
  }
}

export const asState = (state: Partial<State>): State => ({
  epoch: 1,
  state: 'SLEEPING',
  bootReady: true,
  reason: '',
  message: '',
  retryAfterMs: 0,
  expectedMs: 0,
  ...state,
});
