/** Where one model's files lie under the models path. */
import { join } from 'node:path';
import { modelFolder } from '#proto/names.ts';
import { gthreadFolder } from '#proto/weights.ts';

/** Folder of all that is on its way, under the models path. */
export const incomingName = '.incoming';

export interface Places {
  /** `<models>/<folder>`: published commits and refs. */
  model: string;
  /** `<models>/.incoming/<folder>`: commits on their way (with a mark after some names). */
  incoming: string;
  /** `<models>/.incoming/<folder>.gthread`: conversions on their way. */
  converting: string;
  lock: string;
  /** Which commit a revision was when last asked for. */
  ref: string;
}

export const isCommit = (text: string): boolean => /^[0-9a-f]{40}$/.test(text);

/** What a name under `.incoming` ends with that is not a model's download. */
const conversionSuffix = '.gthread';
const lockSuffix = '.lock';
const asideSuffix = '.removed';
/** Ends the name of a model that ends so itself (`org/x.gthread`, `org/x.lock`): no model's name has it, and `org/x` has the rest. */
const mark = '+';

/** Where the downloads of a model lie under `.incoming`; with a suffix, what else is on its way. */
function onItsWay(modelsDir: string, folder: string): string {
  const isAmbiguous = [conversionSuffix, lockSuffix, asideSuffix].some((suffix) => folder.endsWith(suffix));
  return join(modelsDir, incomingName, isAmbiguous ? folder + mark : folder);
}

/** Whose that is which has this name under `.incoming`. */
export function modelOnItsWay(name: string): { folder: string; isLock: boolean } {
  const isLock = name.endsWith(lockSuffix);
  const own = [conversionSuffix, lockSuffix].find((suffix) => name.endsWith(suffix)) ?? '';
  const marked = name.slice(0, name.length - own.length);
  return { folder: marked.endsWith(mark) ? marked.slice(0, -mark.length) : marked, isLock };
}

/** @param folder `org--name` */
export const lockPath = (modelsDir: string, folder: string): string =>
  onItsWay(modelsDir, folder) + lockSuffix;

/** Where a folder goes before it is removed. */
export const asidePath = (modelsDir: string, folder: string): string =>
  onItsWay(modelsDir, folder) + asideSuffix;

export function placesOf(modelsDir: string, modelName: string, revision: string): Places {
  const folder = modelFolder(modelName);
  const model = join(modelsDir, folder);
  const incoming = onItsWay(modelsDir, folder);
  return {
    model,
    incoming,
    converting: incoming + conversionSuffix,
    lock: lockPath(modelsDir, folder),
    ref: join(model, 'refs', encodeURIComponent(revision)),
  };
}

/** `<models>/<folder>/<commit>.gthread-1`. */
export const formFolder = (modelsDir: string, modelName: string, commit: string): string =>
  join(modelsDir, gthreadFolder(modelName, commit));
