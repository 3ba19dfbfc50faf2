/** Each effect of the arbiter's to the call it stands for. Nothing is waited for here; results are posted as events. */
import type { FromAgent } from '#proto/link.ts';
import type { ArbiterEffect, ArbiterEvent, ProbeOutcome } from '../decide/arbiter/words.ts';
import type { LauncherMessage, Untimed } from '../decide/launcher-line.ts';
import type { SuspendableEngine } from './suspend.ts';

type CarriedEffect = Exclude<ArbiterEffect, { type: 'timer' }>;
type Of<T extends ArbiterEffect['type']> = Extract<ArbiterEffect, { type: T }>;

export interface Ports {
  /** @returns false when nobody is there: it will say hello, and be told then */
  toSidecar(podUid: string, message: FromAgent): boolean;
  toLauncher(podUid: string, message: LauncherMessage): boolean;
  /** null when the pod has no directory */
  engine(podUid: string): SuspendableEngine | null;
  wakeSent(podUid: string): void;
  measure(): void;
  remember(effect: Of<'remember'>): void;
  explain(effect: Of<'explain'>): void;
  post(event: Untimed<ArbiterEvent>): void;
  nowMs(): number;
}

/** Beyond so many pods all are told again. */
const toldMax = 1_000;
const noEngine = { ok: false, message: 'the pod has no directory on this node any more' };

/** @returns what the loop calls for each effect */
export function createCarrier(ports: Ports): (effect: CarriedEffect) => void {
  const { post } = ports;

  function ask(podUid: string): void {
    const engine = ports.engine(podUid);
    if (!engine) post({ type: 'engine-state', podUid, state: 'unreachable' });
    else void engine.ask().then((state) => post({ type: 'engine-state', podUid, state }));
  }

  /** Pods that were told that suspend is not offered to them, up to `toldMax`. */
  const told = new Set<string>();

  function suspend({ podUid, bytes }: Of<'sleep-engine'>, engine: SuspendableEngine): void {
    void engine.suspend(bytes).then(({ instead, ...outcome }) => {
      if (instead && !(instead.reason === 'SuspendNotOffered' && told.has(podUid)))
        ports.explain({ type: 'explain', podUid, ...instead, level: 'warn' });
      if (told.size >= toldMax) told.clear();
      if (instead?.reason === 'SuspendNotOffered') told.add(podUid);
      post({ type: 'slept', podUid, ...outcome });
    });
  }

  function sleep(effect: Of<'sleep-engine'>): void {
    const { podUid, level, bytes } = effect;
    const engine = ports.engine(podUid);
    if (!engine) post({ type: 'slept', podUid, ...noEngine });
    else if (effect.suspend) suspend(effect, engine);
    else void engine.sleep(level, bytes).then((outcome) => post({ type: 'slept', podUid, ...outcome }));
  }

  function probe({ podUid, id, kind }: Of<'probe-engine'>): void {
    const engine = ports.engine(podUid);
    const began = ports.nowMs();
    const done = (outcome: ProbeOutcome): void =>
      post({ type: 'probed', podUid, id, outcome, tookMs: ports.nowMs() - began });
    if (!engine) done({ type: 'silent', message: noEngine.message });
    else void engine.probe(kind).then(done);
  }

  function wake({ podUid, bytes }: Of<'wake-engine'>): void {
    const engine = ports.engine(podUid);
    const began = ports.nowMs();
    if (!engine) return void post({ type: 'woken', podUid, tookMs: 0, ...noEngine });
    void engine
      .wake(bytes, () => ports.wakeSent(podUid))
      .then((outcome) => post({ type: 'woken', podUid, tookMs: ports.nowMs() - began, ...outcome }));
  }

  return (effect) => {
    const { type } = effect;
    switch (type) {
      case 'tell':
        return void ports.toSidecar(effect.podUid, { state: effect.state });
      case 'barrier': {
        const { podUid, epoch, drainTimeoutMs } = effect;
        return void ports.toSidecar(podUid, { barrier: { epoch, drainTimeoutMs } });
      }
      case 'end':
        return void ports.toSidecar(effect.podUid, { end: { graceMs: effect.graceMs } });
      case 'wait':
      case 'grant':
      case 'restart-engine':
      case 'release-launcher':
        return toLauncher(effect);
      case 'ask-engine':
        return ask(effect.podUid);
      case 'sleep-engine':
        return sleep(effect);
      case 'wake-engine':
        return wake(effect);
      case 'probe-engine':
        return probe(effect);
      case 'keep-canary': {
        const keep = { canary: JSON.stringify(effect.answer) };
        return void ports.toSidecar(effect.podUid, { keep });
      }
      case 'measure':
        return ports.measure();
      case 'remember':
        return ports.remember(effect);
      case 'explain':
        return ports.explain(effect);
      default: {
        const never: never = type;
        throw new Error(`no such effect: ${never}`);
      }
    }
  };

  function toLauncher(effect: Of<'wait' | 'grant' | 'restart-engine' | 'release-launcher'>): void {
    const { podUid } = effect;
    switch (effect.type) {
      case 'wait':
        return void ports.toLauncher(podUid, {
          type: 'wait',
          reason: effect.reason,
          message: effect.message,
        });
      case 'grant':
        return void ports.toLauncher(podUid, { type: 'grant', id: effect.id, bytes: effect.bytes });
      case 'restart-engine':
        return void ports.toLauncher(podUid, {
          type: 'restart',
          reason: effect.reason,
          message: effect.message,
        });
      case 'release-launcher':
        return void ports.toLauncher(podUid, { type: 'drained' });
    }
  }
}
