/** What every container of ours keeps to: the container rules of Pod Security `restricted`. */

/** User and group of sidecar and engine; the agent opens each pod's folder to it. */
export const podUser = 65532;

export const restrictedContainer = {
  allowPrivilegeEscalation: false,
  capabilities: { drop: ['ALL'] },
  runAsNonRoot: true,
  seccompProfile: { type: 'RuntimeDefault' },
} as const;

export const restrictedPod = {
  runAsNonRoot: true,
  runAsUser: podUser,
  runAsGroup: podUser,
  seccompProfile: { type: 'RuntimeDefault' },
} as const;

/** Pins a pod to a node by name, as the DaemonSet controller does: taints and resources still count. */
export const onNode = (node: string) => ({
  nodeAffinity: {
    requiredDuringSchedulingIgnoredDuringExecution: {
      nodeSelectorTerms: [{ matchFields: [{ key: 'metadata.name', operator: 'In', values: [node] }] }],
    },
  },
});

export const pullSecrets = (names: readonly string[]) =>
  names.length > 0 ? { imagePullSecrets: names.map((name) => ({ name })) } : {};
