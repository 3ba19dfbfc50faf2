import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ModelState } from '#proto/link.ts';
import {
  demandOf,
  type Gate,
  type GateEffect,
  type GateEvent,
  newGate,
  nextTickMs,
  queuedCount,
  step,
} from '../../../sidecar/decide/gate.ts';
import { asState } from './fake-agent.ts';

const limits = { maxQueued: 3, maxQueuedBytes: 100, maxWaitMs: 1_000 };
const arrived = (id: number, more: { bytes?: number; hopped?: boolean; atMs?: number } = {}): GateEvent => ({
  type: 'arrived',
  id,
  bytes: 10,
  hopped: false,
  atMs: 0,
  ...more,
});
const told = (state: ModelState, epoch: number, more = {}, atMs = 0): GateEvent => ({
  type: 'told',
  state: asState({ state, epoch, ...more }),
  atMs,
});

/** Runs events on a new gate; answers with each effect as one word, and the gate. */
function run(events: GateEvent[], own = limits): { did: string[]; gate: Gate } {
  const gate = newGate(own, 0);
  const did = events.flatMap((event) => step(gate, event)).map(word);
  return { did, gate };
}
function word(effect: GateEffect): string {
  switch (effect.do) {
    case 'refuse':
      return `refuse ${effect.id} ${effect.refusal.code}`;
    case 'barrierUp':
      return `barrier ${effect.epoch}:${effect.inFlight}`;
    case 'ending':
      return effect.drained ? 'drained' : 'ending';
    default:
      return `${effect.do} ${effect.id}`;
  }
}

const cases: [string, GateEvent[], string[]][] = [
  ['lets pass while it serves', [told('SERVING', 1), arrived(1), arrived(2)], ['pass 1', 'pass 2']],
  [
    'holds while it sleeps and releases in order',
    [told('SLEEPING', 1), arrived(1), arrived(2), told('WAKING', 2), told('SERVING', 3), arrived(3)],
    ['hold 1', 'hold 2', 'pass 1', 'pass 2', 'pass 3'],
  ],
  ['holds before any agent spoke', [arrived(1)], ['hold 1']],
  [
    'says how many still run at once and whenever one ends, and holds what is new',
    [
      told('SERVING', 1),
      arrived(1),
      arrived(2),
      { type: 'barrier', epoch: 2, atMs: 0 },
      arrived(3),
      { type: 'finished', id: 1, atMs: 1 },
      { type: 'left', id: 2, atMs: 2 },
      told('SERVING', 3),
    ],
    ['pass 1', 'pass 2', 'barrier 2:2', 'hold 3', 'barrier 2:1', 'barrier 2:0', 'pass 3'],
  ],
  [
    'ignores an older epoch',
    [told('SERVING', 5), { type: 'barrier', epoch: 4, atMs: 0 }, told('SLEEPING', 3), arrived(1)],
    ['pass 1'],
  ],
  [
    'refuses finally what can never be served, and all who wait',
    [arrived(1), told('FAILED', 1, { reason: 'TooLarge', message: 'needs 90 GiB' }), arrived(2)],
    ['hold 1', 'refuse 1 model_unservable', 'refuse 2 model_unservable'],
  ],
  [
    'asks again once a failure may have passed',
    [told('FAILED', 1, { retryAfterMs: 500 }), arrived(1, { atMs: 499 }), arrived(2, { atMs: 500 })],
    ['refuse 1 model_failed', 'hold 2'],
  ],
  [
    'is bounded in number',
    [arrived(1), arrived(2), arrived(3), arrived(4)],
    ['hold 1', 'hold 2', 'hold 3', 'refuse 4 queue_full'],
  ],
  [
    'is bounded in bytes, save that one alone may always wait',
    [arrived(1, { bytes: 500 }), arrived(2), { type: 'left', id: 1, atMs: 0 }, arrived(3)],
    ['hold 1', 'refuse 2 queue_bytes_full', 'hold 3'],
  ],
  [
    'is bounded in time',
    [arrived(1), arrived(2, { atMs: 400 }), { type: 'tick', atMs: 999 }, { type: 'tick', atMs: 1_000 }],
    ['hold 1', 'hold 2', 'refuse 1 wait_timeout'],
  ],
  [
    'keeps serving what is awake when the agent is gone, and a barrier too',
    [
      told('SERVING', 1),
      { type: 'link', up: false, atMs: 0 },
      arrived(1),
      { type: 'barrier', epoch: 2, atMs: 0 },
      { type: 'link', up: false, atMs: 0 },
      arrived(2),
    ],
    ['pass 1', 'barrier 2:1', 'hold 2'],
  ],
  [
    'puts what could not be sent back to its place, and probes with one',
    [
      told('SERVING', 1),
      arrived(1),
      arrived(2),
      { type: 'unsent', id: 2, atMs: 0 },
      arrived(3),
      { type: 'unsent', id: 1, atMs: 1 },
      { type: 'tick', atMs: 99 },
      { type: 'tick', atMs: 100 },
      { type: 'tick', atMs: 150 },
      { type: 'sent', id: 1, atMs: 151 },
    ],
    ['pass 1', 'pass 2', 'hold 2', 'hold 3', 'hold 1', 'pass 1', 'pass 2', 'pass 3'],
  ],
  [
    'probes less and less often while the engine refuses, and at once when the agent says it serves',
    [
      told('SERVING', 1),
      arrived(1),
      { type: 'unsent', id: 1, atMs: 0 },
      { type: 'tick', atMs: 100 },
      { type: 'unsent', id: 1, atMs: 100 },
      { type: 'tick', atMs: 299 },
      told('SERVING', 2, {}, 299),
    ],
    ['pass 1', 'hold 1', 'pass 1', 'hold 1', 'pass 1'],
  ],
  [
    'lets nothing pass for a moment after the engine cut an answer: it may be dying and still take connections',
    [
      told('SERVING', 1),
      arrived(1),
      { type: 'cut', id: 1, atMs: 0 },
      arrived(2),
      arrived(3),
      { type: 'tick', atMs: 99 },
      { type: 'tick', atMs: 100 },
      { type: 'sent', id: 2, atMs: 101 },
    ],
    ['pass 1', 'hold 2', 'hold 3', 'pass 2', 'pass 3'],
  ],
  [
    'waits for the agent alone where an answer is cut after its barrier',
    [
      told('SERVING', 1),
      arrived(1),
      { type: 'barrier', epoch: 2, atMs: 0 },
      { type: 'cut', id: 1, atMs: 1 },
      arrived(2),
      told('SERVING', 3, {}, 2),
    ],
    ['pass 1', 'barrier 2:1', 'barrier 2:0', 'hold 2', 'pass 2'],
  ],
  [
    'lets the next one probe when the client of the first probe leaves',
    [
      told('SERVING', 1),
      arrived(1),
      arrived(2),
      { type: 'unsent', id: 1, atMs: 0 },
      { type: 'unsent', id: 2, atMs: 0 },
      { type: 'tick', atMs: 100 },
      { type: 'left', id: 1, atMs: 120 },
    ],
    ['pass 1', 'pass 2', 'hold 1', 'hold 2', 'pass 1', 'pass 2'],
  ],
  [
    'hands the queue on when the pod ends, never twice, and says when all is drained',
    [
      told('SERVING', 1),
      arrived(1),
      told('SLEEPING', 2),
      arrived(2),
      arrived(3, { hopped: true }),
      { type: 'end', settleMs: 0, atMs: 0 },
      arrived(4),
      arrived(5, { hopped: true }),
      { type: 'finished', id: 1, atMs: 1 },
      { type: 'finished', id: 2, atMs: 1 },
      { type: 'left', id: 4, atMs: 1 },
      { type: 'end', settleMs: 0, atMs: 2 },
    ],
    [
      'pass 1',
      'hold 2',
      'hold 3',
      'ending',
      'handOn 2',
      'refuse 3 pod_ending',
      'handOn 4',
      'refuse 5 pod_ending',
      'drained',
    ],
  ],
  [
    'is drained at once when nothing is there',
    [{ type: 'end', settleMs: 0, atMs: 0 }],
    ['ending', 'drained'],
  ],
  [
    'goes on handing on until balancers had time to look elsewhere, and is drained only then',
    [
      { type: 'end', settleMs: 50, atMs: 0 },
      arrived(1, { atMs: 40 }),
      { type: 'finished', id: 1, atMs: 45 },
      { type: 'tick', atMs: 49 },
      { type: 'tick', atMs: 50 },
      { type: 'tick', atMs: 60 },
    ],
    ['ending', 'handOn 1', 'drained'],
  ],
  [
    'obeys limits that changed while requests wait',
    [
      arrived(1),
      arrived(2, { atMs: 50 }),
      { type: 'limits', limits: { ...limits, maxWaitMs: 60, maxQueued: 1 }, atMs: 70 },
      arrived(3, { atMs: 70 }),
    ],
    ['hold 1', 'hold 2', 'refuse 1 wait_timeout', 'refuse 3 queue_full'],
  ],
];

describe('the gate', () => {
  it.each(cases)('%s', (_, events, expected) => {
    expect(run(events).did).toEqual(expected);
  });

  it('says what the wait and the wake cost', () => {
    const gate = newGate(limits, 0);
    step(gate, arrived(1, { atMs: 0 }));
    step(gate, told('WAKING', 1, {}, 30));
    step(gate, arrived(2, { atMs: 40 }));
    expect(step(gate, told('SERVING', 2, {}, 100))).toEqual([
      { do: 'pass', id: 1, queueMs: 100, wakeMs: 70 },
      { do: 'pass', id: 2, queueMs: 60, wakeMs: 60 },
    ]);
  });

  it('passes the agent’s expectation on as Retry-After', () => {
    const { gate } = run([told('PENDING', 1, { expectedMs: 7_000 }), arrived(1), arrived(2), arrived(3)]);
    expect(step(gate, arrived(4))).toMatchObject([{ refusal: { code: 'queue_full', retryAfterMs: 7_000 } }]);
  });

  it('counts what clients want', () => {
    const { gate } = run([
      told('SERVING', 1),
      arrived(1),
      { type: 'barrier', epoch: 2, atMs: 0 },
      arrived(2, { atMs: 5 }),
    ]);
    expect(demandOf(gate, 25)).toEqual({
      inFlight: 1,
      queued: 1,
      oldestWaitMs: 20,
      idleMs: 0,
      requestsTotal: 2,
    });
    step(gate, { type: 'left', id: 2, atMs: 30 });
    step(gate, { type: 'finished', id: 1, atMs: 40 });
    expect(demandOf(gate, 100)).toMatchObject({ inFlight: 0, queued: 0, oldestWaitMs: 0, idleMs: 60 });
  });

  it('wants no tick while nothing waits, and never one in the past for a probe under way', () => {
    const { gate } = run([told('SERVING', 1), arrived(1)]);
    expect(nextTickMs(gate)).toBeNull();
    step(gate, { type: 'unsent', id: 1, atMs: 10 });
    expect(nextTickMs(gate)).toBe(110);
    step(gate, arrived(2, { atMs: 20 }));
    step(gate, { type: 'tick', atMs: 110 });
    expect(nextTickMs(gate)).toBe(20 + limits.maxWaitMs);
  });
});

const anyState = fc.constantFrom<ModelState>(
  'SLEEPING',
  'PENDING',
  'WAKING',
  'SERVING',
  'DEACTIVATING',
  'FAILED',
);
/** What may happen next; `pick` chooses among the requests there are. */
const anyHappening = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant('arrive' as const), bytes: fc.nat(60), hopped: fc.boolean() }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constantFrom(
        'left' as const,
        'finished' as const,
        'cut' as const,
        'unsent' as const,
        'sent' as const,
      ),
      pick: fc.nat(),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('tell' as const),
      state: anyState,
      back: fc.nat(2),
      retryAfterMs: fc.constantFrom(0, 300),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('tick' as const), ms: fc.nat(400) }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constantFrom('end' as const, 'link' as const, 'barrier' as const) }),
  },
);

type Happening = typeof anyHappening extends fc.Arbitrary<infer T> ? T : never;

/** Plays happenings against a gate and checks every rule after each. */
class Play {
  readonly gate = newGate(limits, 0);
  readonly ends = new Map<number, string[]>();
  readonly atEngine = new Set<number>();
  readonly atSibling = new Set<number>();
  readonly places = new Map<number, number>();
  epoch = 1;
  nowMs = 0;
  lastId = 0;

  apply(event: GateEvent): void {
    const queuedBefore = queuedCount(this.gate);
    const effects = step(this.gate, event);
    for (const effect of effects) this.note(effect, queuedBefore);
    this.check();
  }

  note(effect: GateEffect, queuedBefore: number): void {
    if (effect.do === 'pass') {
      expect(this.gate.told.state).toBe('SERVING');
      expect(this.gate.ending).toBeNull();
      expect(this.atEngine.has(effect.id)).toBe(false);
      this.atEngine.add(effect.id);
      const { place } = this.gate.inFlight.get(effect.id)!;
      const waiting = [...this.gate.returned, ...this.gate.queue.values()];
      expect(waiting.filter((other) => other.place < place)).toEqual([]);
    } else if (effect.do === 'refuse') this.end(effect.id, effect.refusal.code);
    else if (effect.do === 'handOn') this.atSibling.add(effect.id);
    else if (effect.do === 'hold' && !this.places.has(effect.id)) {
      this.places.set(effect.id, this.places.size);
      expect(queuedBefore).toBeLessThan(limits.maxQueued);
    }
  }

  end(id: number, how: string): void {
    this.ends.set(id, [...(this.ends.get(id) ?? []), how]);
  }

  check(): void {
    const { gate } = this;
    const waiting = [...gate.returned, ...gate.queue.values()];
    expect(waiting.map(({ place }) => place)).toEqual(
      waiting.map(({ place }) => place).sort((a, b) => a - b),
    );
    expect(gate.queuedBytes).toBe(waiting.reduce((sum, { bytes }) => sum + bytes, 0));
    const queued = [...gate.queue.values()];
    const queuedBytes = queued.reduce((sum, { bytes }) => sum + bytes, 0);
    expect(queuedBytes).toBeLessThanOrEqual(
      Math.max(limits.maxQueuedBytes, ...queued.map(({ bytes }) => bytes)),
    );
    expect(queued.length).toBeLessThanOrEqual(limits.maxQueued);
    for (const { id } of waiting) {
      expect(this.atEngine.has(id)).toBe(false);
      expect(this.ends.has(id)).toBe(false);
    }
    expect([...gate.inFlight.keys()].sort()).toEqual([...this.atEngine].sort());
    // Nobody waits before an open door.
    if (gate.told.state === 'SERVING' && !gate.away) expect(waiting).toEqual([]);
  }

  /** A request left or ended somewhere. */
  close(type: 'left' | 'finished' | 'cut' | 'unsent', id: number): void {
    const where = this.atEngine.has(id) ? 'engine' : this.atSibling.has(id) ? 'sibling' : 'queue';
    if ((type === 'unsent' || type === 'cut') && where !== 'engine') return;
    if (type === 'finished' && where === 'queue') return;
    this.atEngine.delete(id);
    if (type !== 'unsent') {
      this.atSibling.delete(id);
      if (!this.ends.has(id)) this.end(id, type);
    }
    this.apply({ type, id, atMs: this.nowMs });
  }

  living(): number[] {
    return Array.from({ length: this.lastId }, (_, at) => at + 1).filter((id) => !this.ends.has(id));
  }

  happen(happening: Happening) {
    const atMs = this.nowMs;
    switch (happening.kind) {
      case 'arrive':
        return this.apply(arrived(++this.lastId, { bytes: happening.bytes, hopped: happening.hopped, atMs }));
      case 'tell': {
        const epoch = Math.max(0, ++this.epoch - happening.back * 2);
        return this.apply(told(happening.state, epoch, { retryAfterMs: happening.retryAfterMs }, atMs));
      }
      case 'tick':
        this.nowMs += happening.ms;
        return this.apply({ type: 'tick', atMs: this.nowMs });
      case 'end':
        return this.apply({ type: 'end', settleMs: 0, atMs });
      case 'link':
        return this.apply({ type: 'link', up: false, atMs });
      case 'barrier':
        return this.apply({ type: 'barrier', epoch: ++this.epoch, atMs });
      default: {
        const living = this.living();
        if (living.length === 0) return;
        const id = living[happening.pick % living.length]!;
        if (happening.kind !== 'sent') return this.close(happening.kind, id);
        if (this.atEngine.has(id)) this.apply({ type: 'sent', id, atMs });
      }
    }
  }

  /** The core is healed: it serves, and whatever is sent answers. Everybody must end. */
  heal(): void {
    this.apply(told('SERVING', ++this.epoch + 10, {}, this.nowMs));
    for (let round = 0; round < 200 && this.living().length > 0; round++) {
      for (const id of [...this.atEngine, ...this.atSibling]) this.close('finished', id);
      this.nowMs += 20;
      this.apply({ type: 'tick', atMs: this.nowMs });
    }
  }
}

describe('the gate, whatever happens', () => {
  it('ends every request exactly once, in order, within its bounds', () => {
    fc.assert(
      fc.property(fc.array(anyHappening, { maxLength: 60 }), (happenings) => {
        const play = new Play();
        for (const happening of happenings) play.happen(happening);
        play.heal();
        expect(play.living()).toEqual([]);
        for (const [id, ends] of play.ends) expect([id, ends]).toEqual([id, [ends[0]]]);
      }),
      { numRuns: 400 },
    );
  });
});
