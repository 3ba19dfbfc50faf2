/** What a node's containerd, CNI plugins and kubelet read. Paths are those inside the box. */
import { cgroupName, edgeAddress } from './places.ts';

/** The sandbox image by the name that every kubelet knows; imported from hack/oci. */
export const pauseImage = 'registry.k8s.io/pause:3.10.1';

/** @param options.nvidiaRuntime the wrapper of runc that RuntimeClass nvidia stands for; null: no such class */
export function containerdConfig(options: { cniFolder: string; nvidiaRuntime: string | null }): string {
  const nvidia = options.nvidiaRuntime
    ? `
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia.options]
  BinaryName = '${options.nvidiaRuntime}'
`
    : '';
  return `version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
disabled_plugins = ['io.containerd.nri.v1.nri']

[plugins.'io.containerd.internal.v1.opt']
  path = '/var/lib/containerd/opt'
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '${pauseImage}'
[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE (a container, a sandbox) no score may be lowered, and every pod would fail.
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/usr/lib/cni']
  conf_dir = '${options.cniFolder}'
${nvidia}`;
}

/** @param pods the node's pod network without its last byte: `10.88.1` */
export function cniConfig(pods: string): string {
  const range = { subnet: `${pods}.0/24`, rangeStart: `${pods}.10` };
  const address = {
    type: 'host-local',
    dataDir: '/run/cni-ipam',
    ranges: [[range]],
    routes: [{ dst: '0.0.0.0/0' }],
  };
  const interfaces = {
    type: 'bridge',
    bridge: 'cni0',
    isGateway: true,
    hairpinMode: true,
    ipMasq: false,
    ipam: address,
  };
  const plugins = [interfaces, { type: 'portmap', capabilities: { portMappings: true } }];
  return JSON.stringify({ cniVersion: '1.0.0', name: 'greenthread-dev', plugins }, null, 2);
}

/** KubeletConfiguration: quick to see a node die, never short of the developer's disk. */
export function kubeletConfig(node: string, clientCA: string): string {
  return JSON.stringify(
    {
      apiVersion: 'kubelet.config.k8s.io/v1beta1',
      kind: 'KubeletConfiguration',
      failCgroupV1: false,
      failSwapOn: false,
      cgroupDriver: 'cgroupfs',
      cgroupRoot: `/${cgroupName(node)}`,
      containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
      volumePluginDir: '/var/lib/kubelet/volume-plugins',
      authentication: {
        anonymous: { enabled: false },
        webhook: { enabled: true },
        x509: { clientCAFile: clientCA },
      },
      authorization: { mode: 'Webhook' },
      clusterDNS: [edgeAddress],
      clusterDomain: 'cluster.local',
      resolvConf: '/dev/null',
      makeIPTablesUtilChains: false,
      evictionHard: {
        'memory.available': '100Mi',
        'nodefs.available': '1%',
        'nodefs.inodesFree': '1%',
        'imagefs.available': '1%',
      },
      imageGCHighThresholdPercent: 100,
      imageGCLowThresholdPercent: 99,
      serializeImagePulls: false,
      // A changed Secret reaches its pod at the next sync (the default is a minute).
      syncFrequency: '10s',
      nodeStatusUpdateFrequency: '2s',
      nodeLeaseDurationSeconds: 8,
    },
    null,
    2,
  );
}
