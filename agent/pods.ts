/** The model pods of this node as the agent meets them: their directories, who is connected, what is known of each. */
import type { KubernetesObject } from '#platform/kubernetes/client.ts';
import type { Log } from '#platform/log.ts';
import { annotations } from '#proto/names.ts';
import type { PodReference } from './act/report.ts';
import type { ArbiterEvent, PodFact } from './decide/arbiter/words.ts';
import type { Untimed } from './decide/launcher-line.ts';
import { type PodObject, podFact } from './decide/resource-facts.ts';
import type { LauncherLinkEvent } from './observe/launcher-link.ts';
import { type PodDirectories, watchPodDirectories } from './observe/pod-directories.ts';
import type { LinkEvent, LinkOptions } from './observe/sidecar-link.ts';
import { openPodChannel, type PodChannel } from './pod-channels.ts';

/** After this the arbiter decides by what it knows, whoever is still silent, ms. */
const settleMsMax = 3_000;
/** Dead directories are looked for this often, ms. */
const sweepMs = 10_000;

export interface NodePods {
  channel(podUid: string): PodChannel | undefined;
  /** Whether a pod is one of ours, by the API server or by its directory. */
  isModelPod(podUid: string): boolean;
  reference(podUid: string): PodReference | null;
  /** By the API server; undefined when it does not list the pod. */
  fact(podUid: string): PodFact | undefined;
  facts(): Iterable<PodFact>;
  /** What the API server lists, whole. */
  listed(objects: readonly (KubernetesObject & PodObject)[]): void;
  close(): void;
}

export interface NodePodsParts extends LinkOptions {
  root: string;
  post(event: Untimed<ArbiterEvent>): void;
  log: Log;
}

/** What a sidecar or launcher said of itself, for an agent without an API server. */
interface Heard {
  reference: PodReference | null;
  /** The settings text the sidecar has. */
  settings: string | null;
}

/** Pods that were there at the start and have not spoken; `settled` is posted once, when none is left or time is up. */
function settleWatch(post: NodePodsParts['post']) {
  const silent = new Set<string>();
  let done = false;
  const settle = (): void => {
    if (done) return;
    done = true;
    clearTimeout(timer);
    post({ type: 'settled' });
  };
  const timer = setTimeout(settle, settleMsMax);
  return {
    expect: (podUid: string): void => void silent.add(`${podUid} sidecar`).add(`${podUid} launcher`),
    heard(podUid: string, who: 'sidecar' | 'launcher'): void {
      if (silent.delete(`${podUid} ${who}`) && silent.size === 0) settle();
    },
    /** The first look is over. */
    begin: (): void => {
      if (silent.size === 0) settle();
    },
    stop: (): void => clearTimeout(timer),
  };
}

/**
 * Serves every pod directory from now on.
 * @throws Error when the root cannot be made or read
 */
export function serveNodePods(parts: NodePodsParts): NodePods {
  const { root, release, holdsBack, post, log } = parts;
  const channels = new Map<string, PodChannel>();
  const heard = new Map<string, Heard>();
  const facts = new Map<string, PodFact>();
  const settingsTexts = new Map<string, string>();
  let alive: Set<string> | null = null;
  const settling = settleWatch(post);

  const of = (podUid: string): Heard => {
    const entry = heard.get(podUid) ?? { reference: null, settings: null };
    heard.set(podUid, entry);
    return entry;
  };

  /** The annotation may have changed while the sidecar was away, or just now. */
  const sendSettings = (podUid: string): void => {
    const text = settingsTexts.get(podUid);
    const entry = heard.get(podUid);
    if (text === undefined || !entry || entry.settings === text) return;
    if (channels.get(podUid)?.sidecar.send({ settings: { settings: text } })) entry.settings = text;
  };

  const emit = (event: LinkEvent | LauncherLinkEvent): void => {
    if (event.type === 'attached') {
      const { podUid, pod, namespace, model, settings } = event.hello;
      Object.assign(of(podUid), { reference: { podUid, pod, namespace, model }, settings });
      post(event);
      sendSettings(podUid);
      settling.heard(podUid, 'sidecar');
      return;
    }
    // The kubelet makes the directory first and sets its mode afterwards; once a container runs in it that is over, and
    // an engine that starts now can make its socket there.
    if (event.type === 'asked') directories.look();
    post(event);
    if (event.type === 'asked' || event.type === 'holding') settling.heard(event.podUid, 'launcher');
  };

  let atStart = true;
  const directories: PodDirectories = watchPodDirectories(
    root,
    {
      appeared(podUid, path) {
        channels.set(podUid, openPodChannel(podUid, path, { release, holdsBack, emit, log }));
        if (atStart) settling.expect(podUid);
        else log.info('a pod directory appeared', { podUid });
      },
      gone(podUid) {
        const channel = channels.get(podUid);
        channels.delete(podUid);
        heard.delete(podUid);
        channel?.close();
        if (!channel) return;
        post({ type: 'detached', podUid });
        post({ type: 'launcher-gone', podUid });
      },
      looked: (podUid) => channels.get(podUid)?.ensure(),
    },
    log,
  );
  atStart = false;
  // Not within this call: the caller has what it builds only afterwards.
  const begun = setImmediate(settling.begin);

  const busy = (podUid: string): boolean => {
    const channel = channels.get(podUid);
    return channel !== undefined && (channel.sidecar.attached() || channel.launcher.connected());
  };
  const sweep = setInterval(() => alive && directories.removeDead(alive, busy), sweepMs);

  return {
    channel: (podUid) => channels.get(podUid),
    isModelPod: (podUid) => facts.has(podUid) || channels.has(podUid),
    reference: (podUid) => facts.get(podUid) ?? heard.get(podUid)?.reference ?? null,
    fact: (podUid) => facts.get(podUid),
    facts: () => facts.values(),
    listed(objects) {
      facts.clear();
      settingsTexts.clear();
      alive = new Set(objects.map(({ metadata }) => metadata.uid ?? ''));
      for (const object of objects) {
        const fact = podFact(object);
        if (!fact) continue;
        facts.set(fact.podUid, fact);
        const text = object.metadata.annotations?.[annotations.settings];
        if (text !== undefined) settingsTexts.set(fact.podUid, text);
      }
      post({ type: 'pods', pods: [...facts.values()] });
      for (const podUid of settingsTexts.keys()) sendSettings(podUid);
    },
    close() {
      clearInterval(sweep);
      clearImmediate(begun);
      settling.stop();
      directories.close();
      for (const channel of channels.values()) channel.close();
      channels.clear();
    },
  };
}
