/** One running sidecar: opens the front door and says how it ends. */
import { createLog, errorText } from '#platform/log.ts';
import { readEnvironment } from './decide/environment.ts';
import { type FrontDoor, openFrontDoor } from './front-door.ts';

/** Answers still on their way out when the grace ends need a moment before the kill. */
const marginMs = 1_000;
/**
 * Told by the agent that the pod ends and drained, it leaves without SIGTERM after this: as process 1 of its container it may
 * have got it before it could hear it. The engine's own end, which the kubelet waits for first, is usually over by then.
 */
const unsignalledMsMax = 10_000;
/** Of a short grace at most this part goes into waiting for the signal. */
const unsignalledPartOfGrace = 0.25;
/** The last word on the link is out before the process is. */
const partingMs = 50;

/**
 * Serves until the process ends; one that cannot open ends with 1.
 * @returns what SIGTERM does from now on: the pod's queue is handed on, then the process ends
 */
export async function run(): Promise<() => void> {
  const log = createLog('sidecar');
  let leaving = false;

  const leave = (door: FrontDoor, message: string): void => {
    if (leaving) return;
    leaving = true;
    log.info(message);
    setTimeout(() => void door.close().finally(() => process.exit(0)), partingMs);
  };

  try {
    const environment = readEnvironment(process.env);
    const door = await openFrontDoor(environment, log);
    log.info('the front door is open', { port: door.port, model: environment.own.model });
    const unsignalledMs = Math.min(unsignalledMsMax, environment.graceMs * unsignalledPartOfGrace);
    door.loop.whenDrained(
      () => void setTimeout(() => leave(door, 'drained, and no signal came'), unsignalledMs),
    );
    return () => {
      door.loop.end();
      door.loop.whenDrained(() => leave(door, 'drained'));
      const graceMs = door.loop.graceLeftMs() ?? environment.graceMs;
      setTimeout(
        () => leave(door, 'the grace is over: what still runs is cut'),
        Math.max(0, graceMs - marginMs),
      );
    };
  } catch (error) {
    log.error('the front door cannot open', { error: errorText(error) });
    process.exit(1);
  }
}
