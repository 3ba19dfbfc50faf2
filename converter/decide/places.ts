/** Where one model's files lie under the models path. */
import { join } from 'node:path';
import { modelFolder } from '#proto/names.ts';
import { gthreadFolder } from '#proto/weights.ts';

/** Folder of all that is on its way, under the models path. */
export const incomingName = '.incoming';

export interface Places {
  /** `<models>/<folder>`: published commits and refs. */
  model: string;
  /** `<models>/.incoming/<folder>`: commits on their way. */
  incoming: string;
  /** `<models>/.incoming/<folder>.gthread`: conversions on their way. */
  converting: string;
  lock: string;
  /** Which commit a revision was when last asked for. */
  ref: string;
}

export const isCommit = (text: string): boolean => /^[0-9a-f]{40}$/.test(text);

export function placesOf(modelsDir: string, modelName: string, revision: string): Places {
  const folder = modelFolder(modelName);
  const model = join(modelsDir, folder);
  return {
    model,
    incoming: join(modelsDir, incomingName, folder),
    converting: join(modelsDir, incomingName, `${folder}.gthread`),
    lock: join(modelsDir, incomingName, `${folder}.lock`),
    ref: join(model, 'refs', encodeURIComponent(revision)),
  };
}

/** `<models>/<folder>/<commit>.gthread-1`. */
export const formFolder = (modelsDir: string, modelName: string, commit: string): string =>
  join(modelsDir, gthreadFolder(modelName, commit));
