/** By setting: a boot or wake is followed by one question before clients hear that the engine serves. */
import { describe, expect, it } from 'vitest';
import type { ArbiterEffect, ProbeOutcome } from '../../../../agent/decide/arbiter/words.ts';
import type { CanaryAnswer } from '../../../../agent/decide/canary.ts';
import { ScenarioNode } from './node-with-models.ts';

const itself: CanaryAnswer = { kind: 'tokens', steps: [{ token: 'a', logprob: -1, top: { a: -1 } }] };
const other: CanaryAnswer = { kind: 'tokens', steps: [{ token: 'b', logprob: -9, top: { b: -9 } }] };
const answered = (answer: CanaryAnswer): ProbeOutcome => ({ type: 'answered', answer });

const lastProbe = (node: ScenarioNode, name: string) => node.lastOf('probe-engine', name);
function say(node: ScenarioNode, name: string, outcome: ProbeOutcome): void {
  // The newest question's.
  const id = node.state.replicas.get(name)!.probes;
  node.send({ type: 'probed', podUid: name, id, outcome, tookMs: 100 });
}
const reasons = (node: ScenarioNode): string[] =>
  node.effects.flatMap((effect) => (effect.type === 'explain' ? [effect.reason] : []));

/** `a` has booted and is being asked. */
function booted(): ScenarioNode {
  const node = new ScenarioNode(1, 48, true)
    .start()
    .add('a', { bootMs: 2_000, sleep: { idleTimeoutMs: 1_000 } });
  return node.until('a', 'proving');
}
/** It answered as itself, slept, and a client came: it is awake and being asked. */
function woken(outcome: ProbeOutcome = answered(itself)): ScenarioNode {
  const node = booted();
  say(node, 'a', outcome);
  node.until('a', 'asleep').forget();
  node.demand('a', 0, 1);
  return node.until('a', 'proving');
}

describe('without the setting', () => {
  it('nothing is asked and nothing kept', () => {
    const node = new ScenarioNode(1).start().add('a', { bootMs: 2_000 }).booted('a');
    expect(node.told('a')?.state).toBe('SERVING');
    expect([node.sent('probe-engine'), node.sent('keep-canary')]).toEqual([[], []]);
  });
});

describe('a boot', () => {
  it('is no service before its answer is there, which the sidecar keeps', () => {
    const node = booted();
    expect([node.told('a')?.state, node.told('a')?.bootReady]).toEqual(['WAKING', false]);
    expect(lastProbe(node, 'a')).toMatchObject({ id: 1, kind: null });
    say(node, 'a', answered(itself));
    expect([node.phase('a'), node.told('a')?.state, node.told('a')?.bootReady]).toEqual([
      'serving',
      'SERVING',
      true,
    ]);
    expect(JSON.parse(node.kept.get('a')!)).toEqual(itself);
  });

  it('that answers otherwise than the boot before is said, and is what counts from then on', () => {
    const node = woken();
    say(node, 'a', answered(itself));
    node.kill('a');
    node.until('a', 'proving').forget();
    say(node, 'a', answered(other));
    expect(reasons(node)).toEqual(['CanaryBootDiffers']);
    expect([node.phase('a'), JSON.parse(node.kept.get('a')!)]).toEqual(['serving', other]);
  });

  it('of an engine that takes no question serves, said once, and its wakes are not held up', () => {
    const node = booted();
    say(node, 'a', { type: 'not-offered' });
    expect([node.phase('a'), reasons(node).filter((reason) => reason === 'CanaryNotOffered')]).toEqual([
      'serving',
      ['CanaryNotOffered'],
    ]);
    node.until('a', 'asleep').forget();
    node.demand('a', 0, 1);
    node.until('a', 'serving');
    expect([node.sent('probe-engine'), reasons(node)]).toEqual([[], ['Wake']]);
  });

  it.each<ProbeOutcome>([
    { type: 'silent', message: 'no answer within 30000 ms' },
    { type: 'broken', message: '500' },
  ])('without a usable answer serves all the same: $type', (outcome) => {
    const node = booted();
    say(node, 'a', outcome);
    expect([node.phase('a'), node.kept.size]).toEqual(['serving', 0]);
    expect(reasons(node)).toContain('CanarySilent');
  });
});

describe('a wake', () => {
  it('is no service before it has answered as after the boot', () => {
    const node = woken();
    expect(node.told('a')?.state).toBe('WAKING');
    expect(lastProbe(node, 'a')).toMatchObject({ id: 2, kind: 'tokens' });
    say(node, 'a', answered(itself));
    expect([node.phase('a'), node.told('a')?.state]).toEqual(['serving', 'SERVING']);
    expect(node.sent('restart-engine')).toEqual([]);
  });

  it('is told to the sidecar before the engine hears of it: what it thaws is to be held back', () => {
    const node = woken();
    const at = (matches: (effect: ArbiterEffect) => boolean): number => node.effects.findIndex(matches);
    const told = at((effect) => effect.type === 'tell' && effect.state.state === 'WAKING');
    expect(told).toBeGreaterThanOrEqual(0);
    expect(told).toBeLessThan(at(({ type }) => type === 'wake-engine'));
  });

  it.each<[string, ProbeOutcome]>([
    ['answers otherwise', answered(other)],
    ['fails', { type: 'broken', message: 'POST /v1/completions answered 500' }],
  ])('that %s ends its engine; it boots anew and nobody was told that it serves', (_, outcome) => {
    const node = woken();
    node.forget();
    say(node, 'a', outcome);
    expect(reasons(node)).toEqual(['CanaryAlarm', 'TalksNonsense']);
    expect([node.sent('restart-engine'), node.told('a')?.state, node.told('a')?.reason]).toEqual([
      ['a'],
      'PENDING',
      'Restarts',
    ]);
    node.until('a', 'booting').until('a', 'proving');
    const states = node.effects.flatMap((effect) => (effect.type === 'tell' ? [effect.state.state] : []));
    expect(states).not.toContain('SERVING');
    say(node, 'a', answered(itself));
    expect(node.told('a')?.state).toBe('SERVING');
  });

  it('that talks nonsense while another boots beside it waits for that, held back', () => {
    const node = new ScenarioNode(1, 48, true)
      .start()
      .add('a', { gib: 20, bootMs: 2_000, sleep: { idleTimeoutMs: 1_000 } });
    say(node.until('a', 'proving'), 'a', answered(itself));
    node.until('a', 'asleep');
    node.demand('a', 0, 1);
    node.until('a', 'proving');
    node.add('b', { gib: 20, bootMs: 5_000 }).until('b', 'booting').forget();
    say(node, 'a', answered(other));
    expect([node.phase('a'), node.told('a')?.reason, node.sent('restart-engine')]).toEqual([
      'proving',
      'Restarts',
      [],
    ]);
    // A second word changes nothing.
    say(node, 'a', answered(itself));
    expect(node.phase('a')).toBe('proving');
    node.until('b', 'proving');
    expect(node.sent('restart-engine')).toEqual(['a']);
  });

  it.each<[string, ProbeOutcome]>([
    ['no answer in time', { type: 'silent', message: 'no answer within 30000 ms' }],
    ['no such question any more', { type: 'not-offered' }],
  ])('of which nothing is known serves, and it is said: %s', (_, outcome) => {
    const node = woken();
    say(node, 'a', outcome);
    expect([node.phase('a'), reasons(node).at(-1)]).toEqual(['serving', 'CanarySilent']);
  });

  it('whose answer is lost serves after three minutes', () => {
    const node = woken();
    node.pass(179_000);
    expect(node.phase('a')).toBe('proving');
    node.pass(2_000);
    expect([node.phase('a'), reasons(node).at(-1)]).toEqual(['serving', 'CanarySilent']);
    // And what comes later is not heard.
    say(node, 'a', answered(other));
    expect(node.phase('a')).toBe('serving');
  });

  it('of an engine that ends meanwhile is over; its answer counts for nobody', () => {
    const node = woken();
    node.kill('a');
    node.until('a', 'booting');
    say(node, 'a', answered(other));
    expect([node.phase('a'), reasons(node)]).toEqual([
      'booting',
      expect.not.arrayContaining(['CanaryAlarm']),
    ]);
  });

  it('whose launcher goes away is asked anew, nonsense or not', () => {
    const node = woken();
    node.send({ type: 'launcher-gone', podUid: 'a' });
    say(node, 'a', answered(other));
    expect(node.sent('restart-engine')).toEqual([]);
    node.pass(6_000);
    expect(node.phase('a')).toBe('proving');
    expect(lastProbe(node, 'a')!.id).toBe(3);
  });

  it('without a reference gives one, where nothing that it thawed runs beside', () => {
    const node = woken({ type: 'silent', message: 'timeout' });
    expect(lastProbe(node, 'a')!.kind).toBeNull();
    say(node, 'a', answered(itself));
    expect([node.phase('a'), JSON.parse(node.kept.get('a')!)]).toEqual(['serving', itself]);
    const thawed = woken({ type: 'silent', message: 'timeout' });
    thawed.demand('a', 1, 0);
    say(thawed, 'a', answered(itself));
    expect([thawed.phase('a'), thawed.kept.size]).toEqual(['serving', 0]);
  });
});

describe('the next agent', () => {
  /** Killed while `a` is in this state; its sidecar and launcher come back to the new one. */
  function next(node: ScenarioNode): ScenarioNode {
    node.restartAgent().sendGpus();
    node.measure();
    node.sendLists();
    node.attach('a');
    node.hold('a');
    node.send({ type: 'settled' });
    node.pass(100);
    return node;
  }

  it('knows the engine from its sidecar: nonsense is found', () => {
    const node = next(woken());
    expect(node.phase('a')).toBe('proving');
    expect(lastProbe(node, 'a')!.kind).toBe('tokens');
    say(node, 'a', answered(other));
    expect(node.sent('restart-engine')).toEqual(['a']);
  });

  it('asks nothing of one that serves, and keeps what its sidecar said', () => {
    const served = woken();
    say(served, 'a', answered(itself));
    const node = next(served);
    expect([node.phase('a'), node.told('a')?.state, node.sent('probe-engine')]).toEqual([
      'serving',
      'SERVING',
      [],
    ]);
    node.demand('a', 0, 0);
    node.until('a', 'asleep');
    node.demand('a', 0, 1);
    node.until('a', 'proving');
    expect(lastProbe(node, 'a')!.kind).toBe('tokens');
  });

  it('asks one that was behind a barrier: it may have slept and woken meanwhile', () => {
    const served = woken();
    say(served, 'a', answered(itself));
    served.demand('a', 0, 0);
    served.until('a', 'draining');
    served.pass(0.1);
    const node = next(served);
    expect(node.phase('a')).toBe('proving');
  });

  it('gives a sidecar that has forgotten what it is to keep', () => {
    const node = woken();
    node.kept.clear();
    node.forget();
    node.attach('a');
    expect(node.sent('keep-canary')).toEqual(['a']);
    node.forget();
    node.attach('a');
    expect(node.sent('keep-canary')).toEqual([]);
  });

  it('waits for a sidecar that is silent, five seconds at most', () => {
    const node = woken();
    node.restartAgent().sendGpus();
    node.measure();
    node.sendLists();
    node.hold('a');
    node.send({ type: 'settled' });
    node.pass(4_000);
    expect([node.phase('a'), node.sent('probe-engine')]).toEqual(['proving', []]);
    node.pass(2_000);
    expect(node.sent('probe-engine')).toEqual(['a']);
  });
});
