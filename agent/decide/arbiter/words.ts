/**
 * What the arbiter hears and what it answers. The arbiter is the one place on a node that decides who is awake; every other
 * part of the agent feeds it events and carries out its effects, and what an effect led to comes back as an event.
 *
 * A replica is known by its pod's UID. Times are monotonic milliseconds of the agent's clock (`atMs`), bytes are bytes.
 */
import type { BarrierUp, Demand, Hello, State } from '#proto/link.ts';
import type { Settings } from '#proto/settings.ts';
import type { CanaryAnswer } from '../canary.ts';
import type { GpuMeasurement } from '../facts.ts';
import type { BootRoom } from '../staging/words.ts';

/** What the arbiter needs of a model pod on this node, from its labels and annotations or from its sidecar's hello. */
export interface PodFact {
  podUid: string;
  pod: string;
  namespace: string;
  model: string;
  replica: number;
  /** GPUs by the annotation; a grant needs the bindings to agree. */
  uuids: string[];
  /** Bytes wanted on each GPU while awake, as the controller last knew; null when only the hello is known. */
  vramBytes: number | null;
  /** What decides an engine's VRAM, for measurements that outlive the pod. */
  engineHash: string | null;
  settings: Settings;
  /** From its SIGTERM to its SIGKILL, ms, as the pod itself says; null: not known. */
  graceMs: number | null;
  /** The pod has a deletion timestamp. */
  deleting: boolean;
}

/** A replica that the controller wants on a GPU (GPU.spec.bindings). */
export interface BindingFact {
  namespace: string;
  model: string;
  replica: number;
  reservedBytes: number;
  popular: boolean;
}

/** One GPU resource of this node as the API server has it. */
export interface GpuResourceFact {
  uuid: string;
  bindings: BindingFact[];
}

/** A GPU that the driver lists. */
export interface GpuFact {
  uuid: string;
  index: number;
  totalBytes: number;
  /** Health allows new work: not Unhealthy, not Unknown. */
  usable: boolean;
}

/** `paused`: it has given nothing back and runs nothing, as after a sleep that failed; a wake makes it go on. */
export type EngineState = 'awake' | 'asleep' | 'paused' | 'unreachable';

/** What became of a canary's question. */
export type ProbeOutcome =
  | { type: 'answered'; answer: CanaryAnswer }
  /** An error of the engine's own, or an answer of no known shape. */
  | { type: 'broken'; message: string }
  /** The engine takes no such question. */
  | { type: 'not-offered' }
  /** No answer in time, or none that says anything of its weights. */
  | { type: 'silent'; message: string };

export type ArbiterEvent = { atMs: number } & (
  | { type: 'gpus'; gpus: GpuFact[] }
  /** `startedAtMs`: when the driver was asked. Only a measurement that began after a change can prove it. */
  | { type: 'measured'; startedAtMs: number; gpus: GpuMeasurement[] }
  /** All model pods of this node, as the API server lists them; sent again on every change. */
  | { type: 'pods'; pods: PodFact[] }
  /** All GPU resources of this node; a GPU the driver lists and this does not has lost its resource. */
  | { type: 'gpu-resources'; resources: GpuResourceFact[] }
  /** A measurement kept beside the weights from an earlier life of the same engine on the same product. */
  | { type: 'remembered'; podUid: string; awakeBytes: number; residueBytes: number | null }
  /** The agent has started `settleMs` ago or every known pod directory has answered: decisions may begin. */
  | { type: 'settled' }
  // From the sidecar, over agent.sock.
  | { type: 'attached'; hello: Hello }
  | { type: 'detached'; podUid: string }
  | { type: 'demand'; podUid: string; demand: Demand }
  | { type: 'barrier-up'; podUid: string; barrier: BarrierUp }
  | { type: 'sidecar-ending'; podUid: string; drained: boolean }
  // From the launcher, over grant.sock.
  | { type: 'asked'; podUid: string; uuids: string[]; bytes: number; restarts: number }
  | {
      type: 'holding';
      podUid: string;
      uuids: string[];
      bytes: number;
      restarts: number;
      grant: string;
      ready: boolean;
    }
  | { type: 'started'; podUid: string }
  | { type: 'ready'; podUid: string }
  | { type: 'exited'; podUid: string; code: number | null; signal: string | null; tail: string }
  | { type: 'launcher-ending'; podUid: string }
  | { type: 'launcher-gone'; podUid: string }
  // From the engine, over engine.sock: answers to the effects below.
  | { type: 'engine-state'; podUid: string; state: EngineState }
  /** `suspended`: nothing is left on its GPUs, as its launcher says. */
  | { type: 'slept'; podUid: string; ok: boolean; message: string; suspended?: boolean }
  | { type: 'woken'; podUid: string; ok: boolean; message: string; tookMs: number }
  /** `id`: of the effect that asked. */
  | { type: 'probed'; podUid: string; id: number; outcome: ProbeOutcome; tookMs: number }
  /** Pods that are to boot yet and need host memory, as staging finds it; of all others nothing is asked. */
  | { type: 'host-memory'; boots: BootRoom[] }
  /** Nothing happened but time. */
  | { type: 'tick' }
);

export type ArbiterEffect =
  // To the sidecar.
  | { type: 'tell'; podUid: string; state: State }
  | { type: 'barrier'; podUid: string; epoch: number; drainTimeoutMs: number }
  | { type: 'end'; podUid: string; graceMs: number }
  /** Its engine's answer after the boot, kept by the sidecar for agents to come. */
  | { type: 'keep-canary'; podUid: string; answer: CanaryAnswer }
  // To the launcher.
  | { type: 'wait'; podUid: string; reason: string; message: string }
  | { type: 'grant'; podUid: string; id: string; bytes: number }
  | { type: 'restart-engine'; podUid: string; reason: string; message: string }
  | { type: 'release-launcher'; podUid: string }
  // To the engine. Each is answered by exactly one event, a timeout included.
  | { type: 'ask-engine'; podUid: string }
  /**
   * `suspend`: at level 1, and then what is left by a CUDA checkpoint, where that is offered. `bytes`, here and of a wake: awake on
   * the GPU that has most of them, for the time it may take.
   */
  | { type: 'sleep-engine'; podUid: string; level: 1 | 2; bytes: number; suspend?: true }
  | { type: 'wake-engine'; podUid: string; bytes: number }
  /** The canary's question; `kind`: which one it took before, null: not known. */
  | { type: 'probe-engine'; podUid: string; id: number; kind: CanaryAnswer['kind'] | null }
  /** Measure now; answered by `measured`. */
  | { type: 'measure' }
  /** Send a `tick` at this time; a later `timer` replaces an earlier one, null takes it back. */
  | { type: 'timer'; atMs: number | null }
  /** Keep a measurement beside the weights. */
  | { type: 'remember'; podUid: string; awakeBytes: number; residueBytes: number | null }
  /** Why something was done, for the log, an Event on the Model's pod and a metric; a sentence with figures. */
  | { type: 'explain'; podUid: string; reason: string; message: string; level: 'info' | 'warn' };
