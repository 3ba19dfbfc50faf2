/** The Job that brings a Model's files to a node's disk, for gthread in that form too. */
import { labels, paths } from '#proto/names.ts';
import type { Job, Model } from '../kubernetes.ts';
import { type ControllerSettings, components, partOf } from '../settings.ts';
import { onNode, pullSecrets } from './container-rules.ts';

/** Attempts after the first; each resumes where the last one stopped. */
const fetchRetriesMax = 2;
/** A download of hundreds of GB on a slow line may take this long; seconds. */
const fetchSecondsMax = 24 * 3600;
/** Further certificates that the hub's, or a proxy's, may be signed with. */
const caFolder = '/etc/greenthread/ca';
const caFile = 'ca.crt';

interface FetchPlace {
  name: string;
  node: string;
  checksForm?: boolean;
}

/** @param at the Job's name, the node it runs on, and whether the gthread form there is to be read again before it is believed */
export function fetchJob(settings: ControllerSettings, model: Model, at: FetchPlace): Job & { spec: object } {
  const ours = {
    [labels.partOf]: partOf,
    [labels.component]: components.fetch,
    [labels.managedBy]: partOf,
  };
  return {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: {
      name: at.name,
      namespace: settings.namespace,
      labels: {
        ...ours,
        [labels.model]: model.metadata.name,
        [labels.modelNamespace]: model.metadata.namespace ?? '',
      },
    },
    spec: {
      backoffLimit: fetchRetriesMax,
      activeDeadlineSeconds: fetchSecondsMax,
      template: {
        // Without the label of model pods: the agent must not take a fetch for an engine.
        metadata: { labels: ours },
        spec: {
          restartPolicy: 'Never',
          affinity: onNode(at.node),
          tolerations: [...settings.tolerations, ...model.spec.tolerations],
          ...(settings.progress
            ? { serviceAccountName: settings.progress.serviceAccount, automountServiceAccountToken: true }
            : { automountServiceAccountToken: false }),
          enableServiceLinks: false,
          ...pullSecrets(settings.imagePullSecrets),
          containers: [fetchContainer(settings, model, at)],
          volumes: [
            { name: 'models', hostPath: { path: settings.modelsPath, type: 'DirectoryOrCreate' } },
            ...certificates(settings),
          ],
        },
      },
    },
  };
}

/** Without the ConfigMap the Job still runs: its failure tells of the certificate, a pod that waits for a mount would tell nothing. */
const certificates = ({ wayOut: { caConfigMap } }: ControllerSettings) =>
  caConfigMap === ''
    ? []
    : [
        {
          name: 'ca',
          configMap: { name: caConfigMap, items: [{ key: caFile, path: caFile }], optional: true },
        },
      ];

/** As Node.js and undici read it; the way to the API server, which is told the progress, is never by the proxy. */
const wayOut = ({ wayOut: { proxy, noProxy, caConfigMap } }: ControllerSettings) =>
  Object.entries({
    HTTP_PROXY: proxy,
    HTTPS_PROXY: proxy,
    NO_PROXY: noProxy,
    NODE_EXTRA_CA_CERTS: caConfigMap === '' ? '' : `${caFolder}/${caFile}`,
  }).flatMap(([name, value]) => (value === '' ? [] : [{ name, value }]));

function fetchContainer(settings: ControllerSettings, model: Model, at: FetchPlace): object {
  const { endpoint, secretName } = settings.huggingFace;
  return {
    name: 'fetch',
    image: settings.image,
    imagePullPolicy: settings.imagePullPolicy,
    command: ['node', '/app/converter.js', model.spec.loadFormat === 'gthread' ? 'convert' : 'fetch'],
    env: [
      { name: 'MODEL_NAME', value: model.spec.modelName },
      { name: 'REVISION', value: model.spec.revision },
      { name: 'MODELS_DIR', value: paths.models },
      { name: 'KEEP_FREE_PERCENT', value: String(settings.keepFreePercent) },
      ...(at.checksForm ? [{ name: 'CHECK_FORM', value: 'true' }] : []),
      ...(settings.progress
        ? [
            {
              name: 'PROGRESS_PATH',
              value: `/api/v1/namespaces/${settings.namespace}/configmaps/${settings.progress.configMap}`,
            },
            { name: 'PROGRESS_KEY', value: at.name },
          ]
        : []),
      ...wayOut(settings),
      ...(endpoint === '' ? [] : [{ name: 'HF_ENDPOINT', value: endpoint }]),
      ...(secretName === ''
        ? []
        : [
            {
              name: 'HF_TOKEN',
              valueFrom: { secretKeyRef: { name: secretName, key: 'token', optional: true } },
            },
          ]),
    ],
    // root, because the folder on the node is root's, but with no capability: it writes only what root owns.
    securityContext: {
      runAsUser: 0,
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
      seccompProfile: { type: 'RuntimeDefault' },
    },
    // Measured peaks: 130 MB for usual models, 200 MB for 150,000 tensors.
    resources: { requests: { cpu: '100m', memory: model.spec.loadFormat === 'gthread' ? '256Mi' : '128Mi' } },
    terminationMessagePolicy: 'FallbackToLogsOnError',
    volumeMounts: [
      { name: 'models', mountPath: paths.models },
      ...(settings.wayOut.caConfigMap === '' ? [] : [{ name: 'ca', mountPath: caFolder, readOnly: true }]),
    ],
  };
}
