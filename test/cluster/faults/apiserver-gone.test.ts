/** The API server is away: what needs only the node goes on. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  agentPod,
  clearViolations,
  cluster,
  deleteModels,
  gpus,
  until,
  violations,
} from '../harness/cluster.ts';
import { ask, lost } from './asking.ts';
import { closeShells } from './node-shell.ts';
import {
  atEdge,
  deploy,
  healGpu,
  ipOf,
  kill9,
  node,
  onT4,
  podPids,
  slowEngines,
  untilBooksAgree,
  untilStatus,
} from './stage.ts';

beforeAll(async () => {
  await clearViolations();
  await slowEngines(node, 0, { bootSeconds: 1 });
});
afterEach(async () => {
  await cluster('apiserver-start');
  await until('the API server answers', async () => (await gpus()).length > 0);
  await deleteModels('red', 'blue');
});
afterAll(async () => {
  await healGpu(node, 0);
  closeShells();
});

describe('without an API server', () => {
  it('sleeping models wake, also by preempting, also after the agent was killed', async () => {
    await deploy({ red: onT4({ sleep: { idleTimeout: '2s' } }), blue: onT4() });
    const ips = { red: await ipOf('red'), blue: await ipOf('blue') };
    const agent = await agentPod(node);
    await untilStatus(ips.red, 'sleeps', ({ state }) => state === 'sleeping');
    await cluster('apiserver-stop');
    await expect(gpus()).rejects.toThrow();

    // blue is awake or asleep; red needs its room.
    expect(lost(await ask(atEdge('red')))).toBe(null);
    await untilStatus(ips.blue, 'gave way', ({ state }) => state === 'sleeping');
    expect(lost(await ask({ ...atEdge('blue'), url: `http://${ips.blue}:8000` }))).toBe(null);
    await untilStatus(ips.red, 'gave way', ({ state }) => state === 'sleeping');

    const before = await podPids(node, agent.metadata.uid!, '/app/agent.js');
    await kill9(node, before);
    // Queued while there is no agent at all.
    const waiting = ask(atEdge('red'));
    await until('the kubelet has started the agent again', async () => {
      const now = await podPids(node, agent.metadata.uid!, '/app/agent.js');
      return now.length > 0 && now.every((pid) => !before.includes(pid));
    });
    expect(lost(await waiting)).toBe(null);
    for (const model of ['blue', 'red', 'blue']) expect(lost(await ask(atEdge(model)))).toBe(null);
    await expect(gpus()).rejects.toThrow();

    await cluster('apiserver-start');
    await until('the API server answers', async () => (await gpus()).length > 0);
    await untilBooksAgree(node, 0, 60_000);
    expect(await violations()).toEqual([]);
  });
});
