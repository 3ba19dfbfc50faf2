/** The clean-up as a person types it: which pods run is asked of the API server, and without an answer nothing goes. */
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const program = fileURLToPath(new URL('../../../converter/main.ts', import.meta.url));
const commit = 'a'.repeat(40);
const folder = mkdtempSync(join(tmpdir(), 'gt-clean-process-'));
const file = (name: string, content: object): string => {
  writeFileSync(join(folder, name), JSON.stringify(content));
  return join(folder, name);
};
const pod = {
  kind: 'Pod',
  metadata: { namespace: 'default', name: 'a-0-xxxxx' },
  spec: { containers: [{ command: ['--model', `/mnt/models/org--a/${commit}`] }] },
};
const asked: string[] = [];
let server: Server;
let status = 200;

beforeAll(async () => {
  server = createServer((request, response) => {
    asked.push(request.url!);
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ apiVersion: 'v1', kind: 'PodList', metadata: {}, items: [pod] }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
});
afterAll(() => {
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

/** With one Model, of other files than those on the disk. */
function clean(...words: string[]): Promise<{ code: unknown; output: string; isKept: boolean }> {
  const models = file('models', { items: [{ kind: 'Model', spec: { modelName: 'org/b' } }] });
  const path = join(folder, 'disk/org--a', commit);
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, '.greenthread.json'), '{}');
  const kubeconfig = file('kubeconfig', {
    'current-context': 'x',
    contexts: [{ name: 'x', context: { cluster: 'x', user: 'x' } }],
    clusters: [
      {
        name: 'x',
        cluster: {
          server: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
          'insecure-skip-tls-verify': true,
        },
      },
    ],
    users: [{ name: 'x', user: {} }],
  });
  const env = { PATH: process.env.PATH!, KUBECONFIG: kubeconfig, MODELS_DIR: join(folder, 'disk') };
  return new Promise((resolve) => {
    const given = [program, 'clean', '--models', models, '--remove', ...words];
    execFile(process.execPath, given, { env }, (error, stdout, stderr) =>
      resolve({ code: error?.code ?? 0, output: stdout + stderr, isKept: existsSync(path) }),
    );
  });
}

describe('clean --remove', () => {
  it('asks which pods run, of all nodes', async () => {
    const { code, output, isKept } = await clean();
    expect({ code, isKept }, output).toEqual({ code: 0, isKept: true });
    expect(output).toContain(`org--a/${commit}: pod default/a-0-xxxxx runs on it`);
    expect(asked).toEqual([
      expect.stringMatching(/^\/api\/v1\/pods\?.*labelSelector=greenthread.ai%2Freplica/),
    ]);
  });

  it('removes nothing where that is not told, and says what to do', async () => {
    status = 403;
    const { code, output, isKept } = await clean();
    expect({ code, isKept }).toEqual({ code: 1, isKept: true });
    expect(output).toContain('add --pods FILE');
    status = 200;
  });

  it('takes a list of pods as well', async () => {
    const none = file('pods', { items: [] });
    expect(await clean('--pods', none)).toMatchObject({ code: 0, isKept: false });
  });
});
