/** Reasons in link.proto's State that the sidecar counts: its only way to know what a preemption was. */
export const stateReasons = {
  /** SLEEPING, PENDING or WAKING after a barrier: it gave way to another model that waited. */
  preempted: 'Preempted',
  /** WAKING: others were put to sleep for it. */
  preempting: 'Preempting',
} as const;
