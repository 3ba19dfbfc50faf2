/** The program as it is started on a node: plain Node.js, nvidia-smi from PATH, no API server. */
import { spawn } from 'node:child_process';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { afterwards, cleanUp, folder, until } from './until.ts';

afterEach(cleanUp);

const root = fileURLToPath(new URL('../../../..', import.meta.url));
const fixture = join(root, 'test/fixtures/nvidia-smi/a10g.xml');
const uuid = /<uuid>(GPU-[^<]+)/.exec(readFileSync(fixture, 'utf8'))![1]!;

/** A program on PATH that answers as nvidia-smi does for one A10G. */
function smiOnPath(): string {
  const path = folder();
  const script = `#!/bin/sh
case "$*" in
  *-x*) cat ${fixture} ;;
  *--query-gpu*) echo "${uuid}, 23028, 1, 22731, 0, 30, 20" ;;
esac
`;
  writeFileSync(join(path, 'nvidia-smi'), script);
  chmodSync(join(path, 'nvidia-smi'), 0o755);
  return path;
}

function run(args: string[], env: Record<string, string>) {
  const child = spawn(process.execPath, ['agent/main.ts', ...args], {
    cwd: root,
    env: { PATH: `${smiOnPath()}:/usr/bin:/bin`, ...env },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk) => {
      output += String(chunk);
    });
  afterwards(() => void child.kill('SIGKILL'));
  const ended = new Promise<number | null>((resolve) => child.on('close', (code) => resolve(code)));
  return { child, output: () => output, ended };
}

describe('the agent as a process', () => {
  it('looks at its GPUs, serves metrics and ends at once with 0 on SIGTERM', async () => {
    const folders = folder();
    const kubeconfig = join(folders, 'kubeconfig');
    const cluster = '{name: c, cluster: {server: "https://127.0.0.1:1"}}';
    const context = '{name: c, context: {cluster: c, user: u}}';
    writeFileSync(
      kubeconfig,
      `current-context: c\nclusters: [${cluster}]\ncontexts: [${context}]\nusers: [{name: u, user: {token: t}}]\n`,
    );
    const agent = run(['--kubeconfig', kubeconfig], {
      NODE_NAME: 'n1',
      GREENTHREAD_PODS_DIR: join(folders, 'pods'),
      GREENTHREAD_MODELS_DIR: join(folders, 'models'),
      GREENTHREAD_POOL_DIR: join(folders, 'pool'),
      METRICS_ADDRESS: '127.0.0.1:0',
    });
    const port = await until(
      `a port in ${agent.output()}`,
      () => /"metrics":(\d+)/.exec(agent.output())?.[1],
    );
    let metrics = '';
    for (let n = 0; n < 100 && !metrics.includes('product="NVIDIA-A10G"'); n++) {
      metrics = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(metrics).toContain('product="NVIDIA-A10G"');
    agent.child.kill('SIGTERM');
    expect(await agent.ended).toBe(0);
  });

  it.each([
    ['without its node', [], {}, 1, /NODE_NAME is missing/],
    ['with half of --once --dry-run', ['--once'], { NODE_NAME: 'n' }, 2, /usage/],
    ['with an unknown flag', ['--nonsense'], { NODE_NAME: 'n' }, 2, /usage/],
  ])('says what is wrong when started %s', async (_, args, env, code, text) => {
    const agent = run(args, env as Record<string, string>);
    expect(await agent.ended).toBe(code);
    expect(agent.output()).toMatch(text);
  });
});
