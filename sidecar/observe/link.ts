/** The link to the node's agent: dials agent.sock for ever, turns its messages into events, carries ours. */
import { type ClientDuplexStream, credentials, makeGenericClientConstructor } from '@grpc/grpc-js';
import {
  type FromAgent,
  type FromSidecar,
  type Hello,
  linkMessageBytesMax,
  linkService,
} from '#proto/link.ts';

/** Pause before dialling again; doubles up to the longest. */
const redialMsFirst = 100;
const redialMsMax = 1_000;
/** A dial that connects to nobody who answers is given up after this. */
const dialTimeoutMs = 5_000;

export type LinkEvent =
  | { type: 'message'; message: FromAgent }
  /** Up: an agent spoke. Down: its stream ended. Each only on change. */
  | { type: 'link'; up: boolean; reason: string };

export interface Link {
  /** @returns false when it was not sent: there is no stream, or the agent does not read and it is only a figure */
  send(message: FromSidecar): boolean;
  close(): void;
}

type Stream = ClientDuplexStream<FromSidecar, FromAgent>;
const LinkClient = makeGenericClientConstructor(linkService, 'Link');

const clientOptions = {
  'grpc.default_authority': 'localhost',
  'grpc.max_receive_message_length': linkMessageBytesMax,
  'grpc.max_send_message_length': linkMessageBytesMax,
  // Each dial is a channel of its own: the pauses between dials are ours alone.
  'grpc.use_local_subchannel_pool': 1,
  'grpc.enable_retries': 0,
  'grpc.service_config_disable_resolution': 1,
};

/**
 * @param socketPath of agent.sock
 * @param hello asked for at each dial: the facts that hold then
 */
export function dialLink(socketPath: string, hello: () => Hello, emit: (event: LinkEvent) => void): Link {
  let stream: Stream | null = null;
  let client: InstanceType<typeof LinkClient> | null = null;
  let up = false;
  let clogged = false;
  let closed = false;
  let pauseMs = redialMsFirst;
  let timer: NodeJS.Timeout | undefined;

  const hangUp = (reason: string): void => {
    clearTimeout(timer);
    stream?.cancel();
    client?.close();
    stream = null;
    client = null;
    clogged = false;
    if (closed) return;
    if (up) {
      up = false;
      emit({ type: 'link', up: false, reason });
    }
    timer = setTimeout(dial, pauseMs);
    pauseMs = Math.min(pauseMs * 2, redialMsMax);
  };

  const dial = (): void => {
    client = new LinkClient(`unix:${socketPath}`, credentials.createInsecure(), clientOptions);
    const own = (client as unknown as { attach(): Stream }).attach();
    stream = own;
    timer = setTimeout(() => hangUp('no answer to hello'), dialTimeoutMs);
    own.on('data', (message: FromAgent) => {
      if (stream !== own) return;
      if (!up) {
        clearTimeout(timer);
        up = true;
        pauseMs = redialMsFirst;
        emit({ type: 'link', up: true, reason: '' });
      }
      emit({ type: 'message', message });
    });
    own.on('drain', () => {
      clogged = false;
    });
    own.on('error', (error: Error) => stream === own && hangUp(error.message));
    own.on('end', () => stream === own && hangUp('the agent ended the stream'));
    own.write({ hello: hello() });
  };
  dial();

  return {
    send: (message) => {
      if (!stream) return false;
      // An agent that does not read gets no more figures; barriers and ends are few and always kept.
      if (clogged && message.demand) return false;
      clogged = !stream.write(message);
      return true;
    },
    close: () => {
      closed = true;
      hangUp('closed');
    },
  };
}
