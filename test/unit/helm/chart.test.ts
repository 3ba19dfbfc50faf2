/** The chart: what it installs, what it grants, what it refuses. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { readEnvironment } from '../../../controller/observe/environment.ts';
import { watchedLists } from '../../../controller/observe/watches.ts';
import { chart, helm, type Rendered, refusal, render } from './rendered.ts';

const read = (path: string) => readFileSync(join(chart, path), 'utf8');

describe("the chart's values", () => {
  interface Schema {
    properties?: Record<string, Schema>;
  }
  /** Names of all values that a schema or a values file knows, two levels deep: deeper ones are Kubernetes' own. */
  const schema = JSON.parse(read('values.schema.json')) as Schema;
  const values = parse(read('values.yaml')) as Record<string, Record<string, unknown>>;

  it('are all in the schema, and the schema knows no others', () => {
    const known = Object.entries(schema.properties ?? {}).flatMap(([name, { properties }]) =>
      Object.keys(properties ?? {}).map((inner) => `${name}.${inner}`),
    );
    const given = Object.entries(values).flatMap(([name, inner]) =>
      Object.keys(inner).map((key) => `${name}.${key}`),
    );
    expect(given.sort()).toEqual(known.sort());
  });

  it('hold the names that users write', () => {
    for (const [name, inner] of [
      ['controller', 'huggingFaceToken'],
      ['controller', 'replicas'],
      ['storage', 'modelsPath'],
      ['storage', 'pinnedMemoryMB'],
      ['monitoring', 'enabled'],
      ['vllm', 'image'],
      ['vllm', 'runtimeClassName'],
    ] as const)
      expect(values[name]).toHaveProperty(inner);
  });
});

// Without helm (no development cluster was ever built here) there is nothing to render with.
describe.skipIf(helm === null)('the rendered chart', () => {
  const of = (objects: Rendered[], kind: string, name: string) =>
    objects.find((each) => each.kind === kind && each.metadata.name === name)!;
  const environmentOf = (deployment: Rendered): Record<string, string> =>
    Object.fromEntries(
      (deployment.spec.template.spec.containers[0].env as { name: string; value?: string }[]).map(
        ({ name, value }) => [name, value ?? 'gt'],
      ),
    );
  /** apiGroup/resource → verbs, of a ClusterRole or Role. */
  const grants = (role: Rendered): Map<string, string[]> =>
    new Map(
      (role.rules as { apiGroups: string[]; resources: string[]; verbs: string[] }[]).flatMap(
        ({ apiGroups, resources, verbs }) =>
          resources.map((resource): [string, string[]] => [`${apiGroups[0]}/${resource}`, verbs]),
      ),
    );

  it('has CRDs that outlive it, two controllers, an agent, and no wish to read Secrets', async () => {
    const objects = await render();
    const crds = objects.filter(({ kind }) => kind === 'CustomResourceDefinition');
    expect(crds.map(({ metadata }) => metadata.annotations?.['helm.sh/resource-policy'])).toEqual([
      'keep',
      'keep',
    ]);
    expect(of(objects, 'Deployment', 'greenthread-controller').spec.replicas).toBe(2);
    expect(of(objects, 'PodDisruptionBudget', 'greenthread-controller').spec.minAvailable).toBe(1);
    expect(objects.filter(({ kind }) => kind === 'PodMonitor' || kind === 'Secret')).toEqual([]);
    for (const role of objects.filter(({ kind }) => kind.endsWith('Role'))) {
      const granted = [...grants(role)].flatMap(([resource, verbs]) => [resource, ...verbs]);
      expect(granted.filter((word) => /secrets|^\*|\/\*/.test(word))).toEqual([]);
    }
  });

  const routes: [string, string[]][] = [
    ['an Ingress', []],
    ['an HTTPRoute', ['ingress.enabled=false', 'gateway.enabled=true', 'gateway.name=edge']],
    ['no route', ['ingress.enabled=false']],
  ];
  it.each(routes)(
    'gives the controller settings it can read and the right to watch what it watches: %s',
    async (_name, set) => {
      const objects = await render(...set);
      const { controller } = readEnvironment(
        environmentOf(of(objects, 'Deployment', 'greenthread-controller')),
      );
      const cluster = grants(of(objects, 'ClusterRole', 'greenthread-controller'));
      const own = grants(
        objects.find(({ kind, metadata }) => kind === 'Role' && metadata.name === 'greenthread-controller')!,
      );
      for (const list of Object.values(watchedLists(controller))) {
        if (!list) continue;
        const [, group = ''] = /^\/apis\/([^/]+)\//.exec(list.path) ?? [];
        const key = `${group}/${list.path.split('/').at(-1)}`;
        expect([key, cluster.get(key) ?? own.get(key)]).toEqual([
          key,
          expect.arrayContaining(['list', 'watch']),
        ]);
      }
    },
  );

  it('lets the agent do what it does and no more', async () => {
    const granted = grants(of(await render(), 'ClusterRole', 'greenthread-agent'));
    expect(Object.fromEntries(granted)).toEqual({
      // Server-side apply creates with both.
      'greenthread.ai/gpus': ['list', 'watch', 'create', 'patch'],
      'greenthread.ai/gpus/status': ['patch'],
      '/nodes': ['get'],
      '/pods': ['list', 'watch'],
      '/events': ['create'],
    });
  });

  it('knows each variable that it sets for the controller', async () => {
    const source = readFileSync(join(chart, '../../controller/observe/environment.ts'), 'utf8');
    const names = Object.keys(environmentOf(of(await render(), 'Deployment', 'greenthread-controller')));
    expect(names.filter((name) => !source.includes(name))).toEqual([]);
  });

  it('lets fetch Jobs change one ConfigMap and nothing else, in which the controller reads their progress', async () => {
    const objects = await render();
    const { rules } = objects.find(
      ({ kind, metadata }) => kind === 'Role' && metadata.name === 'greenthread-fetch',
    )!;
    expect(rules).toEqual([
      { apiGroups: [''], resources: ['configmaps'], resourceNames: ['greenthread-fetch'], verbs: ['patch'] },
    ]);
    const { controller } = readEnvironment(
      environmentOf(of(objects, 'Deployment', 'greenthread-controller')),
    );
    expect(controller.progress).toEqual({
      configMap: 'greenthread-fetch',
      serviceAccount: 'greenthread-fetch',
    });
  });

  it('tells the controller by which way fetch Jobs reach the hub', async () => {
    const objects = await render(
      'controller.fetchProxy=http://proxy.corp:3128',
      'controller.fetchNoProxy=mirror.corp\\,.internal',
      'controller.fetchCaConfigMap=corp-ca',
    );
    const env = environmentOf(of(objects, 'Deployment', 'greenthread-controller'));
    expect(readEnvironment(env).controller.wayOut).toEqual({
      proxy: 'http://proxy.corp:3128',
      noProxy: 'mirror.corp,.internal',
      caConfigMap: 'corp-ca',
    });
    // The controller itself talks to the API server alone.
    expect(Object.keys(env).filter((name) => /^(https?|no)_proxy$/i.test(name))).toEqual([]);
  });

  it('tells the controller when the token is another, and not what it is', async () => {
    const version = async (...set: string[]) =>
      environmentOf(of(await render(...set), 'Deployment', 'greenthread-controller'))
        .GREENTHREAD_HF_TOKEN_VERSION;
    const versions = [
      await version(),
      await version('controller.huggingFaceToken=hf_a'),
      await version('controller.huggingFaceToken=hf_b'),
    ];
    expect(new Set(versions).size).toBe(3);
    expect(await version('controller.huggingFaceToken=hf_a')).toBe(versions[1]);
  });

  it('keeps a token in a Secret and nowhere else', async () => {
    const objects = await render('controller.huggingFaceToken=hf_secret');
    const secret = of(objects, 'Secret', 'greenthread-huggingface');
    expect(Buffer.from(secret.data.token, 'base64').toString()).toBe('hf_secret');
    const others = objects.filter((object) => object !== secret);
    expect(JSON.stringify(others)).not.toContain('hf_secret');
  });

  it('takes an existing Secret instead', async () => {
    const objects = await render('controller.huggingFaceSecret=mine', 'controller.huggingFaceToken=hf_x');
    expect(objects.filter(({ kind }) => kind === 'Secret')).toEqual([]);
    expect(environmentOf(of(objects, 'Deployment', 'greenthread-controller')).GREENTHREAD_HF_SECRET).toBe(
      'mine',
    );
  });

  it('runs the agent with all GPUs in sight and no more rights on its node than it uses', async () => {
    const { spec } = of(await render(), 'DaemonSet', 'greenthread-agent').spec.template;
    expect(spec).toMatchObject({ hostPID: true, runtimeClassName: 'nvidia' });
    expect(spec.hostNetwork).toBeUndefined();
    const [container] = spec.containers;
    expect(container.securityContext).toMatchObject({
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'], add: ['CHOWN', 'DAC_OVERRIDE', 'FOWNER'] },
    });
    expect(container.env).toContainEqual({ name: 'NVIDIA_VISIBLE_DEVICES', value: 'all' });
  });

  it('labels what the controller finds by label', async () => {
    const objects = await render();
    const labelsOf = (kind: string, name: string) => of(objects, kind, name).spec.template.metadata.labels;
    expect(labelsOf('DaemonSet', 'greenthread-agent')).toMatchObject({
      'app.kubernetes.io/part-of': 'greenthread',
      'app.kubernetes.io/component': 'agent',
    });
    expect(labelsOf('Deployment', 'greenthread-controller')).toMatchObject({
      'app.kubernetes.io/component': 'controller',
    });
  });

  it('ends the controllers and takes finalizers off before anything else goes', async () => {
    const job = (await render()).find(
      ({ kind, metadata }) => kind === 'Job' && metadata.name === 'greenthread-uninstall',
    )!;
    expect(job.metadata.annotations).toMatchObject({ 'helm.sh/hook': 'pre-delete' });
    expect(job.spec.template.spec.containers[0].command).toEqual([
      'node',
      '/app/controller.js',
      'strip-finalizers',
    ]);
  });

  it('has a PodMonitor for each of its programs when asked', async () => {
    const monitors = (await render('monitoring.enabled=true')).filter(({ kind }) => kind === 'PodMonitor');
    expect(monitors.map(({ metadata }) => metadata.name).sort()).toEqual([
      'greenthread-agent',
      'greenthread-controller',
      'greenthread-model',
    ]);
  });

  const refused: [string, string, RegExp][] = [
    ['a misspelt value', 'controller.huggingfaceToken=x', /huggingfaceToken/],
    ['no replicas', 'controller.replicas=0', /replicas/],
    [
      'credentials in an address',
      'controller.huggingFaceEndpoint=https://svc:S3cret@mirror',
      /huggingFaceEndpoint/,
    ],
    ['a proxy that is no URL', 'controller.fetchProxy=proxy:3128', /fetchProxy/],
    ['a relative path', 'storage.modelsPath=models', /modelsPath/],
    ['a Gateway without a name', 'gateway.enabled=true', /gateway/],
    ['a wait that is not a duration', 'controller.silentAfter=10', /silentAfter/],
  ];
  it.each(refused)('refuses %s by its name', async (_name, set, message) => {
    expect(await refusal(set)).toMatch(message);
  });
});
