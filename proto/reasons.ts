/** Reasons in link.proto's State that the sidecar acts on or counts. */
export const stateReasons = {
  /** SLEEPING, PENDING or WAKING after a barrier: it gave way to another model that waited. */
  preempted: 'Preempted',
  /** WAKING: others were put to sleep for it. */
  preempting: 'Preempting',
  /** PENDING: its engine is ended; what it has answered and was held back goes no further. */
  restarts: 'Restarts',
} as const;
