/** Where one model's files lie under the models path. */
import { join } from 'node:path';
import { modelFolder } from '#proto/names.ts';

export interface Places {
  /** `<models>/<folder>`: published commits and refs. */
  model: string;
  /** `<models>/.incoming/<folder>`: commits on their way. */
  incoming: string;
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
    incoming: join(modelsDir, '.incoming', folder),
    lock: join(modelsDir, '.incoming', `${folder}.lock`),
    ref: join(model, 'refs', encodeURIComponent(revision)),
  };
}
