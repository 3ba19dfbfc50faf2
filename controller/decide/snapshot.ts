/** Everything a plan looks at, at one moment. */
import type { Gpu, Job, Model, Node, Pod, ProgressNotes, Route, Service } from './kubernetes.ts';

/** What is watched. `ownPods` are the agents' and the fetch Jobs' pods in the chart's namespace. */
export interface Watched {
  models: Model;
  gpus: Gpu;
  nodes: Node;
  pods: Pod;
  ownPods: Pod;
  jobs: Job;
  services: Service;
  routes: Route;
  /** The one ConfigMap in which fetch Jobs tell how far they are. */
  progress: ProgressNotes;
}
export type WatchedKind = keyof Watched;
export const watchedKinds = [
  'models',
  'gpus',
  'nodes',
  'pods',
  'ownPods',
  'jobs',
  'services',
  'routes',
  'progress',
] as const satisfies readonly WatchedKind[];

/** Objects by `namespace/name`. */
export type Snapshot = { [Kind in WatchedKind]: ReadonlyMap<string, Watched[Kind]> };

/** What this process has seen and no object says. Of time: other clocks are not trusted. */
export interface Memory {
  /** Pod's UID → why its engine failed; it holds until the engine is up, through all attempts in between. */
  engineFailures: ReadonlyMap<string, string>;
  /** Effect's key → what the API server said when it refused it for good (quota, Pod Security, a missing RuntimeClass). */
  refusals: ReadonlyMap<string, string>;
  /** Node name → ms, when this controller first saw the node not ready (or gone). */
  nodeSilentSince: ReadonlyMap<string, number>;
  /** Node name → ms, when this controller first saw that the node's agent cannot be heard. */
  agentSilentSince: ReadonlyMap<string, number>;
}
