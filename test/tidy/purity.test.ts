/** decide/ is pure and silent: no clock, no randomness, no I/O, no promise, no log. */
import { describe, expect, it } from 'vitest';
import { sources, withoutProse } from './sources.ts';

/** What may not stand in decide/, each with what to do instead. */
const banned: [RegExp, string][] = [
  [/\bDate\.now\b|\bnew Date\(\s*\)|\bperformance\./, 'time comes in with the event'],
  [/\bMath\.random\b|\brandomUUID\b/, 'ids and chance come in as values'],
  [/\bsetTimeout\b|\bsetInterval\b|\bsetImmediate\b|\bqueueMicrotask\b/, 'answer with a timer effect'],
  [/\basync\b|\bawait\b|\bPromise\b|\.then\(/, 'answer with an effect; its result is an event'],
  [/\bprocess\./, 'settings come in as values'],
  [/\bconsole\./, 'decide is silent: the loop logs effects'],
  [/\bfetch\(/, 'answer with an effect'],
];
/** The only node: modules whose functions are pure. */
const pureModules = ['node:crypto', 'node:util', 'node:path'];

/** Breaches of purity in one file of decide/. */
function impurities(code: string, imports: { to: string; typeOnly: boolean }[]): string[] {
  const calls = banned.flatMap(([pattern, instead]) => {
    const match = pattern.exec(code);
    return match ? [`${match[0]}: ${instead}`] : [];
  });
  const modules = imports
    .filter(({ to, typeOnly }) => !typeOnly && to.startsWith('node:') && !pureModules.includes(to))
    .map(({ to }) => `${to}: I/O belongs to observe/ and act/`);
  return [...calls, ...modules];
}

describe('decide/', () => {
  it('is pure in every program', () => {
    const decide = sources().filter(({ path }) =>
      /^(agent|controller|sidecar|converter)\/decide\//.test(path),
    );
    const wrong = decide.flatMap(({ path, code, imports }) =>
      impurities(code, imports).map((breach) => `${path}: ${breach}`),
    );
    expect(wrong).toEqual([]);
  });

  it.each([
    ['const now = Date.now();', 1],
    ['export async function f() {}', 1],
    ['setTimeout(() => 1, 5);', 1],
    ["// Date.now() in prose\nconst text = 'await me';", 0],
    ['const since = new Date(nowMs).toISOString();', 0],
  ])('has its breaches seen: %s', (text, count) => {
    expect(impurities(withoutProse(text), [])).toHaveLength(count);
  });
});
