/** The program itself, by plain node: it starts, says what is wrong with its environment, drains and ends. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { FakeAgent } from './fake-agent.ts';
import { chat, environmentOf, FakeEngine, until } from './pod.ts';

const main = fileURLToPath(new URL('../../../sidecar/main.ts', import.meta.url));
const running: ChildProcess[] = [];
afterEach(() => {
  for (const child of running.splice(0)) child.kill('SIGKILL');
});

function start(env: Record<string, string>) {
  const child = spawn(process.execPath, [main], {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  running.push(child);
  let log = '';
  child.stderr.on('data', (chunk) => {
    log += chunk;
  });
  const exit = new Promise<number | null>((resolve) => child.on('exit', resolve));
  return { child, exit, log: () => log };
}

describe('sidecar/main.ts', () => {
  it('names what is wrong with its environment and exits 1', async () => {
    const { exit, log } = start({ POD_UID: 'u', GREENTHREAD_SETTINGS: '[]' });
    expect(await exit).toBe(1);
    expect(log()).toMatch(
      /POD_NAME is missing.*GREENTHREAD_MODEL is missing.*GREENTHREAD_SETTINGS is not a JSON object/,
    );
  });

  it('ends at once by a SIGTERM that comes while it loads: as process 1 it would not get it without a handler', async () => {
    const sayHandler = `process.once('newListener', (name) => process.stderr.write(name))`;
    const dir = mkdtempSync(join(tmpdir(), 'gt-main-'));
    const { child, exit, log } = start({
      ...environmentOf(dir, {}),
      NODE_OPTIONS: `--import "data:text/javascript,${sayHandler}"`,
    });
    // Before anything else was said.
    await until('it has a handler', () => log() === 'SIGTERM');
    child.kill('SIGTERM');
    expect(await exit).toBe(0);
    rmSync(dir, { recursive: true });
  });

  it('serves, and on SIGTERM lets what runs finish before it exits 0', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'gt-main-'));
    const agent = new FakeAgent(join(dir, 'agent.sock'), { state: 'SERVING' });
    const engine = new FakeEngine(join(dir, 'engine.sock'));
    await Promise.all([agent.listen(), engine.listen()]);
    const { child, exit, log } = start({ ...environmentOf(dir, {}), GREENTHREAD_GRACE_SECONDS: '4' });
    await until('it is open and served', () => /"port":\d+/.test(log()) && log().includes('"to":"SERVING"'));
    const url = `http://127.0.0.1:${/"port":(\d+)/.exec(log())![1]}`;
    let finish = () => {};
    engine.handle = (_, res) => {
      res.write('first ');
      finish = () => res.end('last');
    };
    const answer = await fetch(`${url}/llama/v1/completions`, {
      method: 'POST',
      body: JSON.stringify(chat()),
    });
    child.kill('SIGTERM');
    await until('the agent hears of the end', () =>
      agent.heard.some(({ ending }) => ending?.drained === false),
    );
    expect((await fetch(`${url}/status`)).status).toBe(200);
    finish();
    expect(await answer.text()).toBe('first last');
    expect(await exit).toBe(0);
    expect(agent.heard.some(({ ending }) => ending?.drained)).toBe(true);
    agent.close();
    engine.die();
    rmSync(dir, { recursive: true });
  });

  it('told by the agent that the pod ends, leaves once drained though no SIGTERM comes', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'gt-main-'));
    const agent = new FakeAgent(join(dir, 'agent.sock'), { state: 'PENDING' });
    await agent.listen();
    const { exit } = start({ ...environmentOf(dir, {}), GREENTHREAD_GRACE_SECONDS: '1' });
    await until('it is attached', () => agent.hellos.length > 0);
    agent.say({ end: { graceMs: 60_000 } });
    expect(await exit).toBe(0);
    expect(agent.heard.some(({ ending }) => ending?.drained)).toBe(true);
    agent.close();
    rmSync(dir, { recursive: true });
  });

  it('cuts what still runs when the grace is over, and never as a clean end', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'gt-main-'));
    const agent = new FakeAgent(join(dir, 'agent.sock'), { state: 'SERVING' });
    const engine = new FakeEngine(join(dir, 'engine.sock'));
    await Promise.all([agent.listen(), engine.listen()]);
    const { child, exit, log } = start({ ...environmentOf(dir, {}), GREENTHREAD_GRACE_SECONDS: '1' });
    await until('it is open and served', () => /"port":\d+/.test(log()) && log().includes('"to":"SERVING"'));
    engine.handle = (_, res) => void res.write('first ');
    const url = `http://127.0.0.1:${/"port":(\d+)/.exec(log())![1]}`;
    const answer = await fetch(`${url}/v1/completions`, { method: 'POST', body: JSON.stringify(chat()) });
    child.kill('SIGTERM');
    await expect(answer.text()).rejects.toThrow();
    expect(await exit).toBe(0);
    agent.close();
    engine.die();
    rmSync(dir, { recursive: true });
  });
});
