/** Events of Kubernetes, for `kubectl describe`. They are told once and never repaired: a lost one is only logged. */
import { randomUUID } from 'node:crypto';
import type { KubernetesClient } from '#platform/kubernetes/client.ts';
import { errorText, type Log } from '#platform/log.ts';
import type { Announcement } from '../decide/effects.ts';

/** Events on their way at once; what comes beyond is dropped with a line in the log. */
const announcementsMax = 64;
/** Kubernetes' own limit of an Event's note, bytes. */
const noteBytesMax = 1024;
const component = 'greenthread-controller';

/** Cuts a text to a number of bytes of UTF-8 without splitting a character. */
export function cutToBytes(text: string, bytesMax: number): string {
  const bytes = Buffer.from(text, 'utf8');
  return bytes.length <= bytesMax
    ? text
    : new TextDecoder().decode(bytes.subarray(0, bytesMax - 3)).replace(/\uFFFD+$/, '…');
}

export function createAnnouncer(client: KubernetesClient, identity: string, log: Log) {
  let onTheirWay = 0;
  return ({ type, reason, message, regarding }: Announcement): void => {
    if (onTheirWay >= announcementsMax) {
      log.warn('too many Events at once: one is dropped', { reason, name: regarding.name });
      return;
    }
    onTheirWay += 1;
    const namespace = regarding.namespace ?? 'default';
    const now = new Date().toISOString();
    client
      .create(`/apis/events.k8s.io/v1/namespaces/${namespace}/events`, {
        apiVersion: 'events.k8s.io/v1',
        kind: 'Event',
        // A Model's name has at most 50 characters, a GPU's may fill a name by itself.
        metadata: { name: `${regarding.name.slice(0, 200)}.${randomUUID().slice(0, 13)}`, namespace },
        eventTime: now.replace('Z', '000Z'),
        reportingController: component,
        reportingInstance: identity.slice(0, 128),
        action: reason,
        type,
        reason,
        note: cutToBytes(message, noteBytesMax),
        regarding,
      })
      .catch((error: unknown) => log.warn('an Event was lost', { reason, error: errorText(error) }))
      .finally(() => {
        onTheirWay -= 1;
      });
  };
}
