/** Imports point one way: main → observe, act, loop → decide → api, proto. See docs/architecture.md. */
import { describe, expect, it } from 'vitest';
import { importsOf, sources } from './sources.ts';

const programs = ['agent', 'controller', 'sidecar', 'converter'];
/** The parts of platform/ that are pure functions over values. */
const purePlatform = ['platform/duration.ts', 'platform/quantity.ts'];

interface Arrow {
  room: string;
  part: string | undefined;
  target: string;
  targetPart: string | undefined;
  to: string;
}

/** Each rule: when an arrow breaks it, and what to do instead. */
const rules: [(arrow: Arrow) => boolean, string][] = [
  [({ target }) => ['hack', 'test'].includes(target), 'nothing imports hack/ or test/'],
  [
    ({ room, target }) => programs.includes(target) && target !== room,
    'no program imports another: move what both need to proto/, api/ or platform/',
  ],
  [({ room, target }) => room === 'api' && ['proto', 'platform'].includes(target), 'api/ stands alone'],
  [({ room, target }) => room === 'proto' && target === 'platform', 'proto/ imports api/ alone'],
  [({ room, target }) => room === 'platform' && target === 'api', 'platform/ knows no resources'],
  [
    ({ room, part, target, targetPart }) => part === 'decide' && target === room && targetPart !== 'decide',
    'decide/ imports decide/ alone, of its own program',
  ],
  [
    ({ part, target, to }) => part === 'decide' && target === 'platform' && !purePlatform.includes(to),
    'decide/ uses no platform: what it needs comes in as values',
  ],
  [
    ({ room, part, target, targetPart }) => part === 'observe' && target === room && targetPart === 'act',
    'observe/ does not act: send an event',
  ],
  [
    ({ room, part, target, targetPart }) => part === 'act' && target === room && targetPart === 'observe',
    'act/ does not observe: results come back as events',
  ],
  [
    ({ room, target, targetPart }) => programs.includes(room) && target === room && targetPart === 'main.ts',
    'main.ts wires the rest; nothing imports it',
  ],
];

/** Why an import is not allowed; null when it is. */
function refusedArrow(from: string, to: string): string | null {
  const [room, part] = from.split('/');
  const [target, targetPart] = to.split('/');
  if (room === 'hack' || room === 'test' || !from.includes('/')) return null;
  const arrow = { room: room!, part, target: target!, targetPart, to };
  return rules.find(([breaks]) => breaks(arrow))?.[1] ?? null;
}

describe('import arrows', () => {
  it('point one way in every file', () => {
    const wrong = sources().flatMap(({ path, imports }) =>
      imports.flatMap(({ to, typeOnly }) => {
        const reason = refusedArrow(path, to);
        // A type vanishes at run time: decide/ may name a type that platform/ defines, nothing else.
        const harmless = typeOnly && to.startsWith('platform/');
        return reason && !harmless ? [`${path} → ${to}: ${reason}`] : [];
      }),
    );
    expect(wrong).toEqual([]);
  });

  it('are seen in every form of import', () => {
    const text = `import a from 'x';\nimport {\n  b,\n} from "../act/y.ts";\nexport * from '#proto/z.ts';\nimport type { T } from './t.ts';\nawait import('#platform/log.ts');\nimport 'side';`;
    expect(
      importsOf('agent/observe/q.ts', text).map(({ to, typeOnly }) => `${to}${typeOnly ? ' type' : ''}`),
    ).toEqual(['x', 'agent/act/y.ts', 'proto/z.ts', 'agent/observe/t.ts type', 'platform/log.ts', 'side']);
  });

  it.each([
    ['agent/decide/a.ts', 'agent/act/b.ts'],
    ['agent/decide/a.ts', 'platform/log.ts'],
    ['agent/act/a.ts', 'sidecar/decide/b.ts'],
    ['sidecar/main.ts', 'hack/demo/x.ts'],
    ['api/model.ts', 'proto/names.ts'],
  ])('are refused from %s to %s', (from, to) => {
    expect(refusedArrow(from, to)).not.toBeNull();
  });
});
