/** The pod of one replica: launcher and sidecar beside the engine, on the node and GPUs of its placement. */
import type { ModelSpec } from '#api/model.ts';
import { parseDuration } from '#platform/duration.ts';
import {
  annotations,
  imagesFolder,
  labels,
  paths,
  podName,
  ports,
  serviceName,
  shortHash,
} from '#proto/names.ts';
import { estimateBytes } from '../capacity.ts';
import type { GpuBook } from '../cluster-view.ts';
import { canonical } from '../difference.ts';
import { type Model, ownerOf } from '../kubernetes.ts';
import { liveSettings } from '../live-settings.ts';
import { rememberedBy } from '../remembered.ts';
import { type ControllerSettings, components, ownAnnotations, partOf } from '../settings.ts';
import { onNode, pullSecrets, restrictedContainer, restrictedPod } from './container-rules.ts';
import { engineCommand, engineEnvironment, weightsEnvironment } from './engine-command.ts';
import { apiKeysPath, podVolumes } from './pod-volumes.ts';

/** Seconds beyond drainTimeout that a pod gets to end in: handing on the queue, ending the engine. */
export const graceMarginSeconds = 30;

export interface ModelPod {
  model: Model;
  replica: number;
  gpus: GpuBook[];
  /** Folder of the fetched files, inside the container. */
  weightsPath: string;
  popular: boolean;
  settings: ControllerSettings;
  /** Address of the Model's Service: a cluster may have no DNS. */
  serviceIp: string | null;
}

export interface PodIdentity {
  name: string;
  /** Of all that a running pod cannot change. */
  podHash: string;
  /** Of the part of it that the Model and its place decide; the rest are the chart's defaults. */
  specHash: string;
}

/** What a Model's spec alone adds to the hash of its pods: all that is not live. */
const specPart = rememberedBy((spec: ModelSpec) =>
  canonical({
    spec: [spec.modelName, spec.revision, spec.modelType, spec.dtype, spec.quantization, spec.loadFormat],
    memory: [spec.gpuMemoryUtilization, String(spec.vramPerGPU)],
    parallelism: spec.parallelism,
    aliases: spec.aliases,
    extraArgs: spec.extraArgs,
    pinned: spec.staging.pinned,
    apiKeysSecret: spec.frontDoor.apiKeysSecret,
    images: [spec.vllmImage, spec.sidecarImage],
    tolerations: spec.tolerations,
    serviceAccountName: spec.serviceAccountName,
    resources: spec.resources,
  }),
);

const hashesOf = rememberedBy((spec: ModelSpec, given) => {
  const [place, chart] = given.split('\n\n');
  const specHash = shortHash(`${place}\n${specPart(spec, '')}`);
  return { specHash, podHash: shortHash(`${specHash}\n${chart}`) };
});

/** Names a pod by what it would be, without building it. Sizes of GPUs are not in it: a driver may round them anew. */
export function podIdentity(pod: Omit<ModelPod, 'serviceIp'>): PodIdentity {
  const { settings, gpus } = pod;
  const { spec } = pod.model;
  const place = [gpus[0]!.node, ...gpus.map(({ uuid }) => uuid), pod.weightsPath].join('\n');
  const chart = [
    spec.vllmImage || settings.vllmImage,
    spec.sidecarImage || settings.image,
    settings.image,
    settings.runtimeClassName,
    settings.modelsPath,
  ].join('\n');
  const hashes = hashesOf(spec, `${place}\n\n${chart}`);
  return { name: podName(pod.model.metadata.name, pod.replica, hashes.podHash), ...hashes };
}

/** Of what decides an engine's VRAM; measurements kept on disk are found by it. */
const engineHash = (pod: ModelPod): string => {
  const { spec } = pod.model;
  return shortHash(
    canonical([
      pod.weightsPath,
      spec.modelType,
      spec.dtype,
      spec.quantization,
      spec.loadFormat,
      spec.gpuMemoryUtilization,
      String(spec.vramPerGPU),
      spec.parallelism,
      spec.extraArgs,
      spec.vllmImage || pod.settings.vllmImage,
    ]),
  );
};

/** What the agent looks for, what of it it stages, and whether that stays; the form's name is that of proto/weights.ts. */
function weightsNotes({ model: { spec }, weightsPath }: ModelPod): Record<string, string> {
  const files = weightsPath.slice(paths.models.length + 1);
  const upstream = { [annotations.files]: files };
  if (spec.loadFormat !== 'gthread') return upstream;
  const pinned = spec.staging.pinned && { [annotations.weightsPinned]: 'true' };
  return { ...upstream, [annotations.weights]: `${files}.gthread-1`, ...pinned };
}

const smallestBytes = (gpus: GpuBook[]): number => Math.min(...gpus.map(({ totalBytes }) => totalBytes ?? 0));

/** The whole pod, ready to be created. */
export function modelPod(pod: ModelPod): object {
  const { model, replica, gpus, settings } = pod;
  const { spec } = model;
  const identity = podIdentity(pod);
  const graceSeconds = Math.ceil(parseDuration(spec.sleep.drainTimeout) / 1000) + graceMarginSeconds;
  const { volumes, mounts } = podVolumes({
    modelsPath: settings.modelsPath,
    apiKeysSecret: spec.frontDoor.apiKeysSecret,
  });
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: identity.name,
      namespace: model.metadata.namespace,
      labels: {
        [labels.model]: model.metadata.name,
        [labels.replica]: String(replica),
        [labels.component]: components.model,
        [labels.partOf]: partOf,
        [labels.managedBy]: partOf,
      },
      annotations: {
        [annotations.settings]: liveSettings(spec, pod.popular),
        [annotations.gpuUuids]: gpus.map(({ uuid }) => uuid).join(','),
        [annotations.gpus]: gpus.map(({ index }) => index).join(','),
        [annotations.vramBytes]: String(estimateBytes(spec, smallestBytes(gpus))),
        [annotations.podHash]: identity.podHash,
        [annotations.engineHash]: engineHash(pod),
        [ownAnnotations.specHash]: identity.specHash,
        ...weightsNotes(pod),
      },
      ownerReferences: [ownerOf(model)],
    },
    spec: {
      affinity: onNode(gpus[0]!.node),
      tolerations: [...settings.tolerations, ...staying, ...spec.tolerations],
      runtimeClassName: settings.runtimeClassName,
      restartPolicy: 'Always',
      terminationGracePeriodSeconds: graceSeconds,
      automountServiceAccountToken: false,
      // The one Service that the sidecar needs is in its environment; a namespace's thousands are not.
      enableServiceLinks: false,
      ...(spec.serviceAccountName !== '' && { serviceAccountName: spec.serviceAccountName }),
      ...pullSecrets(settings.imagePullSecrets),
      securityContext: restrictedPod,
      initContainers: [
        launcherContainer(pod, mounts.launcher),
        sidecarContainer(pod, mounts.sidecar, graceSeconds),
      ],
      containers: [engineContainer(pod, mounts.engine, graceSeconds)],
      volumes,
    },
  };
}

/** This controller decides when a replica leaves a node that went silent, not a timer that knows no GPUs. */
const staying = ['node.kubernetes.io/not-ready', 'node.kubernetes.io/unreachable'].map((key) => ({
  key,
  operator: 'Exists',
  effect: 'NoExecute',
}));

const fieldEnvironment = (name: string, fieldPath: string) => ({
  name,
  valueFrom: { fieldRef: { fieldPath } },
});

/** A copy by Node, again if it must: our image may have no shell. */
const copyFolder =
  'process.getBuiltinModule("node:fs").cpSync(process.argv[1], process.argv[2], { recursive: true })';

function launcherContainer(pod: ModelPod, volumeMounts: object[]): object {
  return {
    name: 'launcher',
    image: pod.settings.image,
    imagePullPolicy: pod.settings.imagePullPolicy,
    command: ['node', '-e', copyFolder, '/app/engine', paths.launcherInside],
    securityContext: restrictedContainer,
    resources: { requests: { cpu: '10m', memory: '32Mi' } },
    volumeMounts,
  };
}

function sidecarContainer(pod: ModelPod, volumeMounts: object[], graceSeconds: number): object {
  const { model, settings } = pod;
  const { spec } = model;
  const service = serviceName(model.metadata.name);
  // The form of Kubernetes' own service links.
  const link = service.toUpperCase().replaceAll('-', '_');
  return {
    name: 'sidecar',
    image: spec.sidecarImage || settings.image,
    imagePullPolicy: settings.imagePullPolicy,
    command: ['node', '/app/sidecar.js'],
    restartPolicy: 'Always',
    ports: [{ name: 'http', containerPort: ports.frontDoor }],
    env: [
      fieldEnvironment('POD_UID', 'metadata.uid'),
      fieldEnvironment('POD_NAME', 'metadata.name'),
      fieldEnvironment('POD_NAMESPACE', 'metadata.namespace'),
      { name: 'GREENTHREAD_MODEL', value: model.metadata.name },
      { name: 'GREENTHREAD_MODEL_NAME', value: spec.modelName },
      { name: 'GREENTHREAD_ALIASES', value: spec.aliases.join(',') },
      { name: 'GREENTHREAD_REPLICA', value: String(pod.replica) },
      fieldEnvironment('GREENTHREAD_SETTINGS', `metadata.annotations['${annotations.settings}']`),
      { name: 'GREENTHREAD_GPU_UUIDS', value: pod.gpus.map(({ uuid }) => uuid).join(',') },
      { name: 'GREENTHREAD_SERVICE', value: service },
      { name: 'GREENTHREAD_GRACE_SECONDS', value: String(graceSeconds) },
      ...(pod.serviceIp === null
        ? []
        : [
            { name: `${link}_SERVICE_HOST`, value: pod.serviceIp },
            { name: `${link}_SERVICE_PORT`, value: '80' },
          ]),
      ...(spec.frontDoor.apiKeysSecret === ''
        ? []
        : [{ name: 'GREENTHREAD_API_KEYS_DIR', value: apiKeysPath }]),
    ],
    startupProbe: { tcpSocket: { port: 'http' }, periodSeconds: 1, failureThreshold: 60 },
    readinessProbe: {
      httpGet: { path: '/ready', port: 'http' },
      periodSeconds: 2,
      timeoutSeconds: 2,
      failureThreshold: 3,
    },
    securityContext: restrictedContainer,
    resources: { requests: { cpu: '20m', memory: '96Mi' } },
    volumeMounts,
  };
}

function engineContainer(pod: ModelPod, volumeMounts: object[], graceSeconds: number): object {
  const { gpus, settings } = pod;
  const { spec } = pod.model;
  const uuids = gpus.map(({ uuid }) => uuid).join(',');
  const { requests, limits } = spec.resources;
  return {
    name: 'engine',
    image: spec.vllmImage || settings.vllmImage,
    imagePullPolicy: settings.imagePullPolicy,
    command: engineCommand(spec, pod.weightsPath, smallestBytes(gpus)),
    env: [
      fieldEnvironment('POD_UID', 'metadata.uid'),
      { name: 'NVIDIA_VISIBLE_DEVICES', value: uuids },
      { name: 'GREENTHREAD_GPU_UUIDS', value: uuids },
      { name: 'GREENTHREAD_VRAM_BYTES', value: String(estimateBytes(spec, smallestBytes(gpus))) },
      { name: 'GREENTHREAD_POD_DIR', value: paths.podInside },
      { name: 'GREENTHREAD_GRACE_SECONDS', value: String(graceSeconds) },
      ...weightsEnvironment(
        spec,
        pod.weightsPath,
        imagesFolder(pod.model.metadata.namespace!, engineHash(pod)),
      ),
      ...engineEnvironment,
    ],
    securityContext: restrictedContainer,
    ...((requests || limits) && { resources: { ...(requests && { requests }), ...(limits && { limits }) } }),
    volumeMounts,
  };
}
