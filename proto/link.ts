/** The words of link.proto as types, codecs and the gRPC service that agent and sidecar share. */
import { readFileSync } from 'node:fs';
import type { MethodDefinition, ServiceDefinition } from '@grpc/grpc-js';
import protobuf from 'protobufjs';

/** Version of the agent <-> sidecar protocol; neighbouring releases understand each other. */
export const linkProtocol = 1;

/** Largest message either side accepts, bytes. A Hello with its settings is a few KiB. */
export const linkMessageBytesMax = 1024 * 1024;

export const modelStates = [
  'STATE_UNKNOWN',
  'SLEEPING',
  'PENDING',
  'WAKING',
  'SERVING',
  'DEACTIVATING',
  'FAILED',
] as const;
export type ModelState = (typeof modelStates)[number];

export interface Demand {
  inFlight: number;
  queued: number;
  oldestWaitMs: number;
  idleMs: number;
  requestsTotal: number;
}

export interface Hello {
  protocol: number;
  release: string;
  podUid: string;
  pod: string;
  namespace: string;
  model: string;
  replica: number;
  gpuUuids: string[];
  settings: string;
  state: ModelState;
  epoch: number;
  bootReady: boolean;
  demand: Demand;
  /** As the agent last sent it with Keep; empty or absent: nothing is kept. */
  canary?: string;
}

export interface BarrierUp {
  epoch: number;
  inFlight: number;
}

export interface Ending {
  drained: boolean;
}

/** One message of the sidecar's: exactly one field is set. */
export interface FromSidecar {
  hello?: Hello;
  demand?: Demand;
  barrierUp?: BarrierUp;
  ending?: Ending;
}

export interface State {
  epoch: number;
  state: ModelState;
  bootReady: boolean;
  reason: string;
  message: string;
  retryAfterMs: number;
  expectedMs: number;
  /** Awake, on each GPU in the order of the pod's UUIDs; absent or empty by an agent of an older release. */
  vramBytes?: number[];
  /** Its last sleep was for another that waited; absent by an agent of an older release, as the next one. */
  gaveWay?: boolean;
  /** Others were put to sleep for this start. */
  tookRoom?: boolean;
}

export interface Barrier {
  epoch: number;
  drainTimeoutMs: number;
}

/** One message of the agent's: exactly one field is set. */
export interface FromAgent {
  /** `holdsBack`: absent by an agent of an older release. */
  welcome?: { protocol: number; release: string; holdsBack?: boolean };
  state?: State;
  barrier?: Barrier;
  settings?: { settings: string };
  end?: { graceMs: number };
  keep?: { canary: string };
}

const schema = protobuf.parse(readFileSync(new URL('./link.proto', import.meta.url), 'utf8')).root;

/** Encoder and decoder of one message type; decoding fills defaults and turns 64-bit numbers into JS numbers. */
function codec<T extends object>(name: string) {
  const type = schema.lookupType(`greenthread.link.v1.${name}`);
  return {
    encode: (value: T): Buffer => Buffer.from(type.encode(type.fromObject(value)).finish()),
    // `defaults` must not invent the unset members of the oneof, so it is applied inside the chosen one only.
    decode: (bytes: Uint8Array): T => {
      const message = type.decode(bytes);
      const plain = type.toObject(message, { longs: Number, enums: String }) as Record<string, unknown>;
      for (const [field, value] of Object.entries(plain)) {
        const inner = type.fields[field]?.resolve().resolvedType;
        if (inner instanceof protobuf.Type && typeof value === 'object') {
          plain[field] = inner.toObject((message as unknown as Record<string, protobuf.Message>)[field]!, {
            longs: Number,
            enums: String,
            defaults: true,
          });
        }
      }
      return plain as T;
    },
  };
}

export const fromSidecarCodec = codec<FromSidecar>('FromSidecar');
export const fromAgentCodec = codec<FromAgent>('FromAgent');

const attach: MethodDefinition<FromSidecar, FromAgent> = {
  path: '/greenthread.link.v1.Link/Attach',
  requestStream: true,
  responseStream: true,
  requestSerialize: fromSidecarCodec.encode,
  requestDeserialize: fromSidecarCodec.decode,
  responseSerialize: fromAgentCodec.encode,
  responseDeserialize: fromAgentCodec.decode,
};

/** The gRPC service for grpc-js' server (`addService`) and `makeGenericClientConstructor`. */
export const linkService = { attach } satisfies ServiceDefinition;
