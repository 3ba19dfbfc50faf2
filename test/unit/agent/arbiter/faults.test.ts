import { describe, expect, it } from 'vitest';
import { sleepMsMax, wakeMsMax } from '../../../../agent/decide/engine-times.ts';
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

  it('that fails while nobody waits leaves it serving, is tried again after pauses, and restarts nothing', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { bootMs: 1_000, sleep: { idleTimeoutMs: 1_000 } })
      .booted('a');
    node.failSleeps('a', 12);
    node.pass(60_000);
    expect(node.phase('a')).toBe('serving');
    expect(node.sent('sleep-engine').length).toBeGreaterThan(5);
    node.pass(600_000);
    expect(node.phase('a')).toBe('asleep');
    expect([node.sent('restart-engine'), node.sent('wake-engine')]).toEqual([[], []]);
  });

  it('that fails again and again makes room for who waits by a restart, once the last stream has ended', () => {
    const node = rivals({ fairness: { maxWaitTimeMs: 1_000 } });
    node.failSleeps('b', 99);
    node.demand('b', 1, 0);
    node.demand('a', 0, 1);
    node.pass(400_000);
    expect(node.sent('sleep-engine')).toEqual(['b', 'b']);
    expect([node.sent('restart-engine'), node.engines.get('b')!.state]).toEqual([[], 'awake']);
    node.demand('b', 0, 1);
    node.pass(2_000);
    expect(node.sent('sleep-engine')).toEqual(['b', 'b', 'b']);
    expect(node.lastOf('restart-engine', 'b')).toMatchObject({
      reason: 'SleepFailed',
      message: 'it failed to sleep 3 times, and a waits for its room',
    });
    node.until('a', 'serving');
    expect(node.told('b')?.state).not.toBe('FAILED');
  });

  it('that works again at the last try is a sleep like any other', () => {
    const node = rivals();
    node.failSleeps('b', 2);
    node.demand('a', 0, 1);
    node.until('a', 'serving');
    expect([node.sent('restart-engine'), node.phase('b')]).toEqual([[], 'asleep']);
    expect(node.state.replicas.get('b')!.sleepFailures).toBe(0);
  });

  it('whose failing engine stays paused is found out and ended by a wake, streams and all', () => {
    const node = rivals({ fairness: { maxWaitTimeMs: 1_000 } });
    node.failSleeps('b', 1);
    node.engines.get('b')!.staysPaused = true;
    node.demand('b', 1, 0);
    node.demand('a', 0, 1);
    node.until('b', 'checking');
    node.until('b', 'waking');
    node.until('b', 'serving');
    expect([node.sent('restart-engine'), node.engines.get('b')!.state]).toEqual([[], 'awake']);
  });

  it('that fails makes who waits look for others first', () => {
    const names = ['a', 'b', 'c'];
    const node = new ScenarioNode(1).start();
    for (const name of names) node.add(name, { gib: 20, bootMs: 1_000 }).booted(name);
    node.forget();
    const asleep = names.find((name) => node.phase(name) === 'asleep')!;
    const [broken, other] = names
      .filter((name) => name !== asleep)
      .map((name) => node.state.replicas.get(name)!);
    Object.assign(broken!, { sleepFailures: 2, sleepMs: 0, bootMs: 60_000 });
    Object.assign(other!, { sleepMs: 20_000 });
    node.demand(asleep, 0, 1);
    node.until(asleep, 'serving');
    expect(node.sent('sleep-engine')).toEqual([other!.podUid]);
  });

  it('that is never answered is asked about once all its calls are over', () => {
    const node = rivals();
    node.engines.get('b')!.options.sleepMs = Number.POSITIVE_INFINITY;
    node.demand('a', 0, 1);
    node.until('b', 'sleeping');
    node.pass(sleepMsMax(40 * GiB) - 1);
    expect(node.sent('ask-engine')).toEqual([]);
    node.pass(1);
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
  it('is over for a wake too once all its calls are: the engine is asked, and woken again', () => {
    const node = rivals();
    node.engines.get('a')!.options.wakeMs = Number.POSITIVE_INFINITY;
    node.demand('a', 0, 1);
    node.until('a', 'waking');
    node.pass(wakeMsMax(40 * GiB) - 10);
    expect(node.sent('ask-engine')).not.toContain('a');
    node.engines.get('a')!.options.wakeMs = 400;
    node.pass(20);
    expect(node.sent('ask-engine')).toContain('a');
    expect(node.lastOf('explain', 'a')?.message).toBe('a did not wake, try 1: no answer for 565 s');
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

  /** A gang on both GPUs is idle, `small` on the first one alone asleep: one has room. */
  function gangBeside(): ScenarioNode {
    return new ScenarioNode(2)
      .start()
      .add('small', { gib: 30, bootMs: 1_000 })
      .booted('small')
      .add('gang', { gpus: [0, 1], gib: 30, bootMs: 1_000 })
      .booted('gang')
      .forget();
  }

  function lose(node: ScenarioNode, how: 'vanished' | 'unusable'): void {
    if (how === 'vanished') node.vanished.add(1);
    else node.usable[1] = false;
    node.sendGpus();
    node.measure();
  }

  it('that vanished for good keeps nothing on the others: what a dead gang held there is measured free', () => {
    const node = gangBeside();
    lose(node, 'vanished');
    node.kill('gang', 'device lost');
    node.demand('small', 0, 1);
    node.until('small', 'serving').add('fresh', { gib: 5 }).until('fresh', 'booting');
  });

  it('that vanished while a gang slept leaves it asleep by what the others show', () => {
    const node = gangBeside();
    node.demand('small', 0, 1);
    node.until('gang', 'sleeping');
    lose(node, 'vanished');
    node.until('small', 'serving');
    expect(node.phase('gang')).toBe('asleep');
  });

  it('that is listed and not measured proves nothing', () => {
    const node = gangBeside();
    node.kill('gang', 'device lost');
    node.vanished.add(1);
    node.demand('small', 0, 1);
    node.pass(5_000);
    expect(node.phase('small')).toBe('asleep');
  });

  it.each(['vanished', 'unusable'] as const)(
    '%s lets an idle gang sleep for who waits on the others',
    (how) => {
      const node = gangBeside();
      lose(node, how);
      node.pass(30_000);
      expect(node.sent('sleep-engine')).toEqual([]);
      node.demand('small', 0, 1);
      node.until('small', 'serving');
      expect(node.sent('sleep-engine')).toEqual(['gang']);
      // It waits for its GPU, and takes nothing of the others meanwhile.
      node.demand('small', 0, 0);
      node.demand('gang', 0, 1);
      node.pass(90_000);
      expect(node.told('gang')).toMatchObject({ state: 'FAILED', reason: 'GpuUnusable' });
      expect(node.phase('small')).toBe('serving');
    },
  );

  it.each(['vanished', 'unusable'] as const)(
    '%s lets a gang that works go on: frozen, it could not wake',
    (how) => {
      for (const lostAt of ['before', 'while it drains']) {
        const node = gangBeside();
        node.demand('gang', 1, 0);
        if (lostAt === 'before') lose(node, how);
        node.demand('small', 0, 1);
        if (lostAt !== 'before') {
          node.until('gang', 'draining');
          lose(node, how);
        }
        node.pass(60_000);
        expect(node.phase('gang')).toBe('serving');
        node.demand('gang', 0, 0);
        node.until('small', 'serving');
      }
    },
  );

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
