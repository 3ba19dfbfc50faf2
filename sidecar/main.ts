/** The sidecar: front door of one model pod. */
import { setFlagsFromString } from 'node:v8';
import { createLog, errorText } from '#platform/log.ts';
import { readEnvironment } from './decide/environment.ts';
import { type FrontDoor, openFrontDoor } from './front-door.ts';

/** Answers still on their way out when the grace ends need a moment before the kill. */
const marginMs = 1_000;
/** The last word on the link is out before the process is. */
const partingMs = 50;

/**
 * V8 lets its nursery grow to 48 MB under load and never gives it back; each model pod would pay. Kept at its first size,
 * 20,000 requests leave about 140 MB resident instead of 180, at the same CPU time.
 */
setFlagsFromString('--semi-space-growth-factor=1');

const log = createLog('sidecar');
let leaving = false;

function leave(door: FrontDoor, message: string): void {
  if (leaving) return;
  leaving = true;
  log.info(message);
  setTimeout(() => void door.close().finally(() => process.exit(0)), partingMs);
}

try {
  const environment = readEnvironment(process.env);
  const door = await openFrontDoor(environment, log);
  log.info('the front door is open', { port: door.port, model: environment.own.model });
  process.on('SIGTERM', () => {
    door.loop.end();
    door.loop.whenDrained(() => leave(door, 'drained'));
    const graceMs = door.loop.graceLeftMs() ?? environment.graceMs;
    setTimeout(
      () => leave(door, 'the grace is over: what still runs is cut'),
      Math.max(0, graceMs - marginMs),
    );
  });
} catch (error) {
  log.error('the front door cannot open', { error: errorText(error) });
  process.exit(1);
}
