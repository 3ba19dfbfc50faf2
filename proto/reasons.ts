/** Reasons in link.proto's State that the sidecar acts on. */
export const stateReasons = {
  /** PENDING: its engine is ended; what it has answered and was held back goes no further. */
  restarts: 'Restarts',
} as const;
