/** What is sent to the engine, and what of it stays in memory. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { forward, openEngine } from '../../../sidecar/act/forward.ts';
import { HoldBack } from '../../../sidecar/act/hold-back.ts';
import type { Exchange } from '../../../sidecar/exchange.ts';
import { FakeEngine, until } from './pod.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

const dir = mkdtempSync(join(tmpdir(), 'gt-forward-'));
const engine = new FakeEngine(join(dir, 'engine.sock'));
const pool = openEngine(join(dir, 'engine.sock'));
beforeAll(() => engine.listen());
afterAll(async () => {
  await pool.destroy();
  engine.die();
  rmSync(dir, { recursive: true });
});

/** Sends a body that nobody but `forward` knows. */
function send(bytes: number, mayRetry: boolean): { cancel: () => void; body: WeakRef<ArrayBufferLike> } {
  const body = Buffer.from(new ArrayBuffer(bytes)).fill('y');
  const exchange = {
    req: { rawHeaders: ['Transfer-Encoding', 'chunked', 'Content-Type', 'application/json'] },
    requestId: 'r',
    path: '/v1/completions',
    query: '',
    body,
    mayRetry,
  } as unknown as Exchange;
  const sent = () => {
    if (!mayRetry) exchange.body = null;
  };
  const cancel = forward(
    exchange,
    { engine: pool, keepKeys: true, holdBack: new HoldBack() },
    { sent, finished: () => {}, failed: () => {} },
  );
  return { cancel, body: new WeakRef(body.buffer) };
}

describe('a body sent to an engine that has not answered', () => {
  it.each([
    ['is whole and let go, a large one', 3_000_000, false, true],
    ['is whole and kept while it may be sent once more', 1_000_000, true, false],
  ])('%s', async (_, bytes, mayRetry, letGo) => {
    engine.seen.length = 0;
    engine.handle = () => {};
    const { cancel, body } = send(bytes, mayRetry);
    await until('the engine has it', () => engine.seen.length === 1);
    const [seen] = engine.seen;
    expect(seen!.headers).toMatchObject({ 'content-length': String(bytes) });
    expect(seen!.headers['transfer-encoding']).toBeUndefined();
    expect(seen!.body.equals(Buffer.alloc(bytes, 'y'))).toBe(true);
    const isGone = (): boolean => {
      collect();
      return body.deref() === undefined;
    };
    if (letGo) await until('it is collected', isGone);
    else expect(isGone()).toBe(false);
    cancel();
  });
});
