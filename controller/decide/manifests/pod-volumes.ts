/**
 * All volumes of a model pod, in one place: today a hostPath folder per pod, made its own by subPathExpr; a CSI inline
 * volume of the agent's can take its place here.
 */
import { paths } from '#proto/names.ts';

/** Where the sidecar finds the API keys, one file each. */
export const apiKeysPath = '/etc/greenthread/api-keys';
/** A home for an engine that runs as a user without one: compile caches go there. */
export const engineHome = '/home/greenthread';

const podDirectory = { name: 'pod', mountPath: paths.podInside, subPathExpr: '$(POD_UID)' };
const launcher = { name: 'launcher', mountPath: paths.launcherInside };
/** The node's pool of weights to read, and the pod's own folder of it to write its image in (docs/weights.md). */
const pool = [
  { name: 'pool', mountPath: paths.poolInside, readOnly: true },
  { name: 'pool', mountPath: paths.imageInside, subPathExpr: 'pods/$(POD_UID)' },
];

export function podVolumes(options: { modelsPath: string; apiKeysSecret: string }) {
  const { modelsPath, apiKeysSecret } = options;
  return {
    volumes: [
      { name: 'pod', hostPath: { path: paths.podsOnNode, type: 'DirectoryOrCreate' } },
      { name: 'launcher', emptyDir: {} },
      { name: 'models', hostPath: { path: modelsPath, type: 'DirectoryOrCreate' } },
      { name: 'pool', hostPath: { path: paths.poolOnNode, type: 'DirectoryOrCreate' } },
      { name: 'home', emptyDir: {} },
      // Tensor parallel workers exchange tensors through /dev/shm; a container's own is 64 MiB.
      { name: 'shm', emptyDir: { medium: 'Memory' } },
      ...(apiKeysSecret === '' ? [] : [{ name: 'api-keys', secret: { secretName: apiKeysSecret } }]),
    ],
    mounts: {
      launcher: [launcher],
      sidecar: [
        podDirectory,
        ...(apiKeysSecret === '' ? [] : [{ name: 'api-keys', mountPath: apiKeysPath, readOnly: true }]),
      ],
      engine: [
        podDirectory,
        { ...launcher, readOnly: true },
        { name: 'models', mountPath: paths.models, readOnly: true },
        ...pool,
        { name: 'home', mountPath: engineHome },
        { name: 'shm', mountPath: '/dev/shm' },
      ],
    },
  };
}
