/** Two controllers, one leads; and nobody may more than it needs. */
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { chartNamespace, client, kubectl, until } from '../harness/cluster.ts';
import { answered, ask, lostText } from './asking.ts';
import { deploy, untilReady } from './deploying.ts';

const leader = async (): Promise<string> => {
  const lease = await (await client()).get<{ spec: { holderIdentity?: string } }>(
    `/apis/coordination.k8s.io/v1/namespaces/${chartNamespace}/leases/greenthread-controller`,
  );
  return lease?.spec.holderIdentity ?? '';
};

it('when the leader’s pod is killed the other leads, and a new Model is deployed', async (test) => {
  const first = await until('somebody leads', leader);
  const controllers = (await kubectl('get', 'pods', '-n', chartNamespace, '-o', 'name'))
    .split('\n')
    .filter((name) => name.includes('controller'));
  expect(controllers.length).toBeGreaterThanOrEqual(2);
  await kubectl('delete', 'pod', '-n', chartNamespace, first, '--force', '--grace-period=0');
  const modelName = 'Qwen/Qwen2.5-0.5B-Instruct';
  await deploy(test, 'led', { modelName, vramPerGPU: '2Gi' });
  await untilReady('led');
  const second = await leader();
  expect(second).not.toBe('');
  expect(second).not.toBe(first);
  const answer = await ask('/led', { model: modelName });
  expect(answered(answer), lostText(answer)).toBe(true);
  await kubectl(
    'rollout',
    'status',
    '-n',
    chartNamespace,
    'deployment/greenthread-controller',
    '--timeout=120s',
  );
});

/** What the API server says to `kubectl auth can-i` for a service account of the chart. */
async function may(account: string, verb: string, resource: string, namespace: string): Promise<boolean> {
  // `pods/exec` would be read as a pod of that name.
  const [kind, subresource] = resource.split('/') as [string, string | undefined];
  const words = ['auth', 'can-i', verb, kind, ...(subresource ? ['--subresource', subresource] : [])];
  const as = `system:serviceaccount:${chartNamespace}:greenthread-${account}`;
  const { stdout } = await execa('kubectl', [...words, '--as', as, '-n', namespace], { reject: false });
  return stdout.trim() === 'yes';
}

describe('rights', () => {
  const denied: [account: string, verb: string, resource: string, namespace: string][] = [
    ...['agent', 'controller'].flatMap((account) =>
      ['get', 'list', 'watch', 'create', 'delete'].flatMap((verb) =>
        [chartNamespace, 'default', 'kube-system'].map((namespace): [string, string, string, string] => [
          account,
          verb,
          'secrets',
          namespace,
        ]),
      ),
    ),
    ['agent', 'list', 'models.greenthread.ai', 'default'],
    ['agent', 'patch', 'models.greenthread.ai', 'default'],
    ['agent', 'delete', 'gpus.greenthread.ai', 'default'],
    ['agent', 'patch', 'pods', 'default'],
    ['agent', 'delete', 'pods', 'default'],
    ['agent', 'create', 'pods', 'default'],
    ['agent', 'create', 'pods/exec', 'default'],
    ['agent', 'patch', 'nodes', 'default'],
    ['controller', 'create', 'models.greenthread.ai', 'default'],
    ['controller', 'delete', 'models.greenthread.ai', 'default'],
    ['controller', 'create', 'gpus.greenthread.ai', 'default'],
    ['controller', 'create', 'pods/exec', 'default'],
    ['controller', 'create', 'jobs.batch', 'default'],
    ['controller', 'patch', 'nodes', 'default'],
    ['controller', 'create', 'serviceaccounts/token', chartNamespace],
    ['controller', 'create', 'clusterrolebindings.rbac.authorization.k8s.io', 'default'],
    ['controller', 'update', 'leases.coordination.k8s.io', 'default'],
  ];
  // Without these the answers above would say nothing of these accounts.
  const granted: typeof denied = [
    ['agent', 'watch', 'gpus.greenthread.ai', 'default'],
    ['agent', 'watch', 'pods', 'default'],
    ['controller', 'watch', 'models.greenthread.ai', 'default'],
    ['controller', 'create', 'pods', 'default'],
    ['controller', 'create', 'jobs.batch', chartNamespace],
    ['controller', 'patch', 'models.greenthread.ai/status', 'default'],
  ];
  it('agent and controller read no Secret and change nothing that is not theirs', async () => {
    const wrong: string[] = [];
    for (const [account, verb, resource, namespace] of [...denied, ...granted]) {
      const isGranted = granted.some(
        (each) => each[0] === account && each[1] === verb && each[2] === resource && each[3] === namespace,
      );
      if ((await may(account, verb, resource, namespace)) !== isGranted)
        wrong.push(`${account} ${isGranted ? 'may not' : 'may'} ${verb} ${resource} in ${namespace}`);
    }
    expect(wrong).toEqual([]);
  });
});
