/** Progress told to the cluster: seldom, the last of it, taken away at the end, and never in the way of the work. */
import { describe, expect, it } from 'vitest';
import { createTeller } from '../../../converter/act/tell.ts';
import { createLog } from '../../../platform/log.ts';

const path = '/api/v1/namespaces/gt/configmaps/gt-fetch';

function bench(answer: () => Promise<void> = async () => {}) {
  const patches: { path: string; data: Record<string, string | null> }[] = [];
  const lines: string[] = [];
  const teller = createTeller({
    client: {
      mergePatch: async <T>(at: string, patch: object) => {
        patches.push({ path: at, ...(patch as { data: Record<string, string | null> }) });
        await answer();
        return {} as T;
      },
      close: async () => {},
    },
    path,
    key: 'gt-fetch-x',
    log: createLog('converter', 'debug', (line) => void lines.push(line)),
    everyMs: 20,
  });
  return { patches, lines, teller };
}
async function until(probe: () => boolean): Promise<void> {
  for (let round = 0; !probe() && round < 500; round++)
    await new Promise((resolve) => setTimeout(resolve, 5));
  expect(probe()).toBe(true);
}

describe('progress', () => {
  it('is told at once, then the last of what came meanwhile, and goes at the end', async () => {
    const { patches, teller } = bench();
    for (const text of ['1', '2', '3']) teller.tell(`${text}\n`);
    await until(() => patches.length === 2);
    await teller.close();
    expect(patches).toEqual(['1', '3', null].map((value) => ({ path, data: { 'gt-fetch-x': value } })));
  });

  it('that cannot be told is logged once', async () => {
    const { patches, lines, teller } = bench(async () => {
      throw new Error('forbidden');
    });
    teller.tell('1');
    await until(() => patches.length === 1);
    teller.tell('2');
    await until(() => patches.length === 2);
    await teller.close();
    expect(lines).toHaveLength(1);
    expect(lines[0]).toContain('forbidden');
  });

  it('does not hold the Job when the API server does not answer', async () => {
    const { teller } = bench(() => new Promise(() => {}));
    teller.tell('1');
    await teller.close();
  });
});
