/**
 * Answers of an engine that woke and has not been found to be itself: held back until the agent says that it serves, dropped
 * when it is ended instead. What has stopped being read stays in the engine's connection, so little of it is kept here.
 */
import type { State } from '#proto/link.ts';
import { stateReasons } from '#proto/reasons.ts';

/** One answer of which something is held back. */
export interface Held {
  letGo(): void;
  /** Nothing of it ever reaches the client. */
  drop(): void;
}

export class HoldBack {
  #asked = false;
  #on = false;
  #dropping = false;
  readonly #held = new Set<Held>();

  /** Whether what comes from the engine now must be kept. */
  get on(): boolean {
    return this.#on;
  }

  /** The agent wants it, or not; what is held back stays so until the next SERVING. */
  ask(asked: boolean, told: State): void {
    this.#asked = asked;
    this.told(told);
  }

  /** While a barrier stands, what runs was proven before. An engine that is ended takes with it all that it said since its sleep. */
  told({ state, reason }: State): void {
    if (state === 'DEACTIVATING' || state === 'STATE_UNKNOWN') return;
    if (state === 'SERVING') {
      this.#on = false;
      this.#dropping = false;
      this.#empty((held) => held.letGo());
      return;
    }
    if (this.#asked) this.#on = true;
    if (!this.#on || reason !== stateReasons.restarts) return;
    this.#dropping = true;
    this.#empty((held) => held.drop());
  }

  /** The agent is gone: behind a barrier a wake may be on its way of which nobody will tell. */
  unlinked({ state }: State): void {
    if (this.#asked && state === 'DEACTIVATING') this.#on = true;
  }

  /** Until `letGo` or `drop`, which may come at once. */
  keep(held: Held): void {
    if (this.#dropping) held.drop();
    else this.#held.add(held);
  }

  forget(held: Held): void {
    this.#held.delete(held);
  }

  #empty(act: (held: Held) => void): void {
    const all = [...this.#held];
    this.#held.clear();
    for (const held of all) act(held);
  }
}
