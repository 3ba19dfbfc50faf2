import { describe, expect, it } from 'vitest';
import { GiB, type ModelOptions, ScenarioNode } from './node-with-models.ts';

const rivals = (a: ModelOptions = {}): ScenarioNode =>
  new ScenarioNode(1)
    .start()
    .add('a', { ...a, bootMs: 2_000 })
    .booted('a')
    .add('b', { bootMs: 2_000 })
    .booted('b')
    .forget();

describe('a sleep', () => {
  it('that answers 200 and keeps the memory frees nothing: the engine is restarted, and nobody took its room', () => {
    const node = rivals();
    node.engines.get('b')!.keepsGib = 38;
    node.demand('a', 0, 1);
    node.pass(5_000);
    expect(node.sent('wake-engine')).toEqual([]);
    node.pass(7_000);
    expect(node.lastOf('restart-engine', 'b')?.reason).toBe('ResidueKept');
    expect(node.sent('wake-engine')).toEqual(['a']);
  });

  it.each([
    { firstGib: 0.2, laterGib: 0.9, restarted: false, why: 'up to 1 GiB is always allowed' },
    { firstGib: 0.2, laterGib: 1.1, restarted: true, why: 'it is more than 1 GiB' },
    { firstGib: 2, laterGib: 2.4, restarted: false, why: 'it is within 1.25 of its first' },
    { firstGib: 2, laterGib: 2.6, restarted: true, why: 'it is more than 1.25 of its first' },
  ])('that leaves $laterGib GiB after $firstGib GiB at first: restarted $restarted, $why', (row) => {
    const node = rivals({ residueGib: row.firstGib });
    node.demand('a', 0, 1);
    node.pass(2_000);
    node.demand('a', 0, 0);
    node.engines.get('a')!.keepsGib = row.laterGib;
    node.demand('b', 0, 1);
    node.pass(15_000);
    expect(node.sent('restart-engine')).toEqual(row.restarted ? ['a'] : []);
    expect(node.phase('b')).toBe('serving');
  });

  it('that keeps its memory again and again is no failure of the model: only the pause before its boot grows', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { gib: 20, bootMs: 1_000, sleep: { idleTimeoutMs: 5_000 } })
      .booted('a');
    const pauses: number[] = [];
    for (let n = 0; n < 4; n++) {
      node.engines.get('a')!.keepsGib = 15;
      node.until('a', 'absent').demand('a', 0, 1);
      const endedAt = node.now;
      node.until('a', 'booting');
      pauses.push(Math.round((node.now - endedAt) / 1_000));
      node.demand('a', 0, 0);
      node.until('a', 'serving');
    }
    expect(pauses).toEqual([1, 2, 4, 8]);
    const failed = node.effects.filter((effect) => effect.type === 'tell' && effect.state.state === 'FAILED');
    expect(failed).toEqual([]);
  });

  it('is at rest only when two measurements agree; the first may have caught it falling', () => {
    const node = rivals();
    const b = node.engines.get('b')!;
    b.keepsGib = 10;
    node.demand('a', 0, 1);
    node.pass(125);
    expect(node.phase('b')).toBe('freeing');
    b.bytes = 0.5 * GiB;
    node.pass(100);
    expect(node.phase('b')).toBe('freeing');
    node.pass(200);
    expect(node.state.replicas.get('b')!.residueBytes).toBe(0.5 * GiB);
  });

  it('that fails leaves it serving, and it is restarted after the third time', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { bootMs: 1_000, sleep: { idleTimeoutMs: 1_000 } })
      .booted('a');
    node.failSleeps('a', 3);
    while (node.sent('restart-engine').length === 0 && node.now < 60_000) node.pass(10);
    expect(node.sent('sleep-engine')).toEqual(['a', 'a', 'a']);
    expect(node.lastOf('restart-engine', 'a')?.reason).toBe('SleepFailed');
  });

  it('that is never answered is asked about after three minutes', () => {
    const node = rivals();
    node.engines.get('b')!.options.sleepMs = Number.POSITIVE_INFINITY;
    node.demand('a', 0, 1);
    node.pass(185_000);
    expect(node.sent('ask-engine')).toContain('b');
  });
});

describe('a wake', () => {
  it('that fails is tried again after a pause', () => {
    const node = rivals();
    node.engines.get('a')!.wakeFails.push('CUDA out of memory');
    node.demand('a', 0, 1);
    node.until('a', 'checking');
    node.pass(499);
    expect(node.sent('wake-engine')).toEqual(['a']);
    node.pass(2_000);
    expect(node.sent('wake-engine')).toEqual(['a', 'a']);
    expect(node.phase('a')).toBe('serving');
  });

  it('that fails three times in a row costs it its engine: it boots again, and the other goes on meanwhile', () => {
    const node = rivals();
    node.engines.get('a')!.wakeFails.push('no', 'no', 'no');
    node.demand('a', 0, 1);
    node.pass(8_000);
    expect(node.lastOf('restart-engine', 'a')?.reason).toBe('WakeFailed');
    node.demand('b', 0, 1);
    node.pass(20_000);
    expect(node.told('b')?.state).not.toBe('FAILED');
    expect(node.sent('grant')).toContain('a');
  });

  it('that fails and leaks is found by measuring: the engine is restarted', () => {
    const node = rivals();
    const a = node.engines.get('a')!;
    a.wakeFails.push('no');
    node.demand('a', 0, 1);
    node.until('a', 'checking');
    a.bytes = 6 * GiB;
    node.pass(12_000);
    expect(node.lastOf('restart-engine', 'a')?.reason).toBe('ResidueKept');
  });

  it('whose answer says failed while the engine is awake after all is believed by the engine', () => {
    const node = rivals();
    node.demand('a', 0, 1);
    node.until('a', 'waking');
    node.send({ type: 'woken', podUid: 'a', ok: false, message: 'timeout', tookMs: 60_000 });
    node.engines.get('a')!.state = 'awake';
    node.engines.get('a')!.bytes = 40 * GiB;
    node.pass(500);
    expect(node.told('a')?.state).toBe('SERVING');
  });
});

describe('a call to an engine that is never answered', () => {
  it('is over after three minutes for a wake too: the engine is asked, and woken again', () => {
    const node = rivals();
    node.engines.get('a')!.options.wakeMs = Number.POSITIVE_INFINITY;
    node.demand('a', 0, 1);
    node.until('a', 'waking');
    node.pass(179_990);
    expect(node.sent('ask-engine')).not.toContain('a');
    node.engines.get('a')!.options.wakeMs = 400;
    node.pass(20);
    expect(node.sent('ask-engine')).toContain('a');
    expect(node.lastOf('explain', 'a')?.message).toBe('a did not wake, try 1: no answer for 180 s');
    node.pass(2_000);
    expect(node.phase('a')).toBe('serving');
  });

  it('does not count when it comes after all: a later wake has its own', () => {
    const node = rivals();
    node.demand('a', 0, 1);
    node.until('a', 'serving');
    const { becameServingAtMs } = node.state.replicas.get('a')!;
    node.pass(50);
    node.send({ type: 'woken', podUid: 'a', ok: false, message: 'timeout', tookMs: 180_000 });
    expect(node.phase('a')).toBe('serving');
    expect(node.state.replicas.get('a')!.becameServingAtMs).toBe(becameServingAtMs);
  });
});

describe('an engine that dies', () => {
  it.each(['serving', 'asleep', 'waking', 'sleeping'])(
    'while %s boots again under a new grant, and its room is free when measured',
    (phase) => {
      const node = rivals();
      const name = phase === 'asleep' || phase === 'waking' ? 'a' : 'b';
      if (phase === 'waking' || phase === 'sleeping') node.demand('a', 0, 1);
      node.until(name, phase);
      node.demand('a', 0, 0);
      node.kill(name, 'Segmentation fault');
      expect(node.lastOf('explain', name)?.message).toBe(
        `the engine of ${name} ended while ${phase}, code 1: Segmentation fault`,
      );
      expect(node.told(name)?.state).toBe('PENDING');
      node.pass(60_000);
      expect(node.sent('grant')).toEqual([name]);
    },
  );

  it('still counts in full until a measurement that began after its end', () => {
    const node = rivals();
    node.engines.get('b')!.state = 'none';
    node.send({ type: 'exited', podUid: 'b', code: null, signal: 'SIGKILL', tail: '' });
    node.demand('a', 0, 1);
    expect(node.sent('wake-engine')).toEqual([]);
    node.engines.get('b')!.bytes = 0;
    node.pass(100);
    expect(node.sent('wake-engine')).toEqual(['a']);
  });

  it('of which only the new ask is heard is gone all the same', () => {
    const node = rivals();
    const b = node.engines.get('b')!;
    Object.assign(b, { state: 'none', bytes: 0 });
    node.ask('b');
    node.pass(100);
    expect(node.phase('b')).toBe('booting');
  });

  it('together with its launcher is asked after 5 s, and given up when nothing answers', () => {
    const node = rivals();
    Object.assign(node.engines.get('b')!, { state: 'none', bytes: 0 });
    node.send({ type: 'launcher-gone', podUid: 'b' });
    node.pass(4_900);
    expect(node.sent('ask-engine')).toEqual([]);
    node.pass(20_000);
    expect(node.phase('b')).toBe('absent');
  });
});

describe('an engine that serves and hangs', () => {
  const serving = () => new ScenarioNode(1).start().add('a', { popular: true }).booted('a').forget();

  it('is asked every half minute, and restarted when it stays silent', () => {
    const node = serving();
    node.pass(100_000);
    expect(node.sent('ask-engine')).toHaveLength(3);
    node.engines.get('a')!.hangs = true;
    node.demand('a', 2, 0);
    node.until('a', 'checking');
    expect(node.lastOf('explain', 'a')).toMatchObject({ reason: 'EngineSilent', level: 'warn' });
    node.until('a', 'restarting');
    expect(node.lastOf('restart-engine', 'a')?.reason).toBe('EngineUnreachable');
    node.engines.get('a')!.hangs = false;
    node.until('a', 'serving');
    expect(node.sent('grant')).toEqual(['a']);
  });

  it('for less than three answers in a row serves on', () => {
    const node = serving();
    for (const hangs of [true, true, false, true, true, false]) {
      node.engines.get('a')!.hangs = hangs;
      node.pass(30_100);
      expect(node.phase('a')).toBe('serving');
    }
  });

  it('is believed when it answers after all', () => {
    const node = serving();
    node.engines.get('a')!.hangs = true;
    node.until('a', 'checking');
    node.engines.get('a')!.hangs = false;
    node.pass(5_000);
    expect(node.phase('a')).toBe('serving');
    expect(node.sent('restart-engine')).toEqual([]);
  });
});

describe('memory that changes by itself', () => {
  it('of one that should serve has it asked, and believed', () => {
    const node = rivals();
    Object.assign(node.engines.get('b')!, { state: 'asleep', bytes: 0.5 * GiB });
    node.pass(2_000);
    node.measure();
    node.pass(500);
    expect(node.phase('b')).toBe('asleep');
    expect(node.told('b')?.state).toBe('SLEEPING');
  });

  it('of a sleeper that wakes behind our back has it asked: it serves, or is put to sleep again', () => {
    const node = rivals();
    Object.assign(node.engines.get('b')!, { state: 'asleep', bytes: 0.5 * GiB });
    node.pass(2_000);
    node.measure();
    node.pass(500);
    Object.assign(node.engines.get('b')!, { state: 'awake', bytes: 40 * GiB });
    node.measure();
    node.pass(500);
    expect(node.told('b')?.state).toBe('SERVING');
  });

  it('raises the awake figure when it peaks later', () => {
    const node = rivals();
    node.engines.get('b')!.bytes = 40.2 * GiB;
    node.pass(1_000);
    node.measure();
    expect(node.state.replicas.get('b')!.awakeBytes).toBe(40.2 * GiB);
    expect(node.lastOf('remember', 'b')?.awakeBytes).toBe(40.2 * GiB);
  });
});

describe('a GPU', () => {
  it('out of use starts nothing; clients are told so after a minute and served when it is back', () => {
    const node = rivals();
    node.usable[0] = false;
    node.sendGpus();
    node.demand('a', 0, 1);
    node.pass(30_000);
    expect(node.sent('sleep-engine')).toEqual([]);
    expect(node.told('a')?.state).toBe('PENDING');
    node.pass(31_000);
    expect(node.told('a')).toMatchObject({ state: 'FAILED', reason: 'GpuUnusable', retryAfterMs: 30_000 });
    node.usable[0] = true;
    node.sendGpus();
    node.pass(2_000);
    expect(node.phase('a')).toBe('serving');
  });

  it('whose resource is gone sleeps nothing and grants nothing until it is back', () => {
    const node = rivals();
    const bindings = node.bindings.get('GPU-0')!;
    node.bindings.delete('GPU-0');
    node.sendLists();
    node.demand('a', 0, 1);
    node.pass(60_000);
    expect(node.sent('sleep-engine')).toEqual([]);
    node.bindings.set('GPU-0', bindings);
    node.sendLists();
    node.pass(2_000);
    expect(node.phase('a')).toBe('serving');
  });

  it('whose resource came back without bindings sleeps nothing until they are in', () => {
    const node = rivals();
    const bindings = node.bindings.get('GPU-0')!;
    node.bindings.set('GPU-0', []);
    node.sendLists();
    node.demand('a', 0, 1);
    node.pass(60_000);
    expect(node.sent('sleep-engine')).toEqual([]);
    node.bindings.set('GPU-0', bindings);
    node.sendLists();
    node.pass(2_000);
    expect(node.phase('a')).toBe('serving');
  });

  it('whose resource goes while one drains there lets it go on serving', () => {
    const node = rivals();
    node.demand('a', 0, 1);
    expect(node.phase('b')).toBe('draining');
    node.bindings.delete('GPU-0');
    node.sendLists();
    expect(node.told('b')?.state).toBe('SERVING');
  });
});
