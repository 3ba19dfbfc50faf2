/** The Job's environment, checked. */
import { FetchFailure } from './failures.ts';

export interface Settings {
  /** Without a slash at the end. */
  endpoint: string;
  /** Never printed; null: none. */
  token: string | null;
  modelName: string;
  revision: string;
  /** Absolute. */
  modelsDir: string;
  /** Of a disk that the kubelet has too, what stays free, percent. */
  keepFreePercent: number;
  /** The gthread form is hashed before it is believed. */
  checksForm?: true;
}

/**
 * Below a tenth the kubelet evicts pods (its default `nodefs.available<10%`:
 * kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction); a point more is for what others write meanwhile.
 */
const keepFreePercentDefault = 11;

const upstreamId = /^[A-Za-z0-9][A-Za-z0-9._-]*(\/[A-Za-z0-9][A-Za-z0-9._-]*)?$/;
const revisionForm = /^[A-Za-z0-9][A-Za-z0-9._/-]*$/;

/** Without a slash at the end. It is told to everybody who may see a Model, so what is secret is refused, and not repeated. */
function readEndpoint(text: string): string {
  const variable = "HF_ENDPOINT (the chart's value controller.huggingFaceEndpoint)";
  const url = URL.parse(text);
  if (!url || !/^https?:\/\/[^/\s]/i.test(text) || url.search !== '' || url.hash !== '') {
    throw new FetchFailure('BadSettings', `${variable} must be an http or https URL without ? and #`);
  }
  if (url.username !== '' || url.password !== '') {
    throw new FetchFailure(
      'BadSettings',
      `${variable} holds a user or a password: take them out, and name a Secret with the mirror's token in controller.huggingFaceSecret`,
    );
  }
  return text.replace(/\/+$/, '');
}

/** @throws FetchFailure BadSettings naming the variable */
export function readSettings(env: Readonly<Record<string, string | undefined>>): Settings {
  const bad = (message: string) => new FetchFailure('BadSettings', message);
  const endpoint = readEndpoint(env.HF_ENDPOINT || 'https://huggingface.co');
  const modelName = env.MODEL_NAME ?? '';
  // The folder's name is the id with -- for the slash, so the id itself may have no -- (nor has any on the hub).
  if (!upstreamId.test(modelName) || modelName.includes('..') || modelName.includes('--')) {
    throw bad('MODEL_NAME must be an upstream id such as org/name (spec.modelName)');
  }
  const revision = env.REVISION || 'main';
  if (!revisionForm.test(revision) || revision.includes('..') || revision.length > 128) {
    throw bad('REVISION must be a branch, a tag or a commit, such as main (spec.revision)');
  }
  const modelsDir = readModelsDir(env);
  const token = env.HF_TOKEN?.trim() || null;
  if (token !== null && /[^\x21-\x7e]/.test(token)) {
    throw bad("HF_TOKEN has characters no token has: check the chart's value controller.huggingFaceToken");
  }
  const keepFreePercent = readPercent(env.KEEP_FREE_PERCENT || String(keepFreePercentDefault));
  const checks = env.CHECK_FORM === 'true' && { checksForm: true as const };
  return { endpoint, token, modelName, revision, modelsDir, keepFreePercent, ...checks };
}

function readPercent(text: string): number {
  if (/^\d{1,2}$/.test(text)) return Number(text);
  throw new FetchFailure(
    'BadSettings',
    'KEEP_FREE_PERCENT must be a whole number from 0 to 99 (storage.keepFreePercent)',
  );
}

/** @throws FetchFailure BadSettings */
export function readModelsDir(env: Readonly<Record<string, string | undefined>>): string {
  const modelsDir = env.MODELS_DIR || '/mnt/models';
  if (!modelsDir.startsWith('/')) {
    throw new FetchFailure('BadSettings', 'MODELS_DIR must be an absolute path (storage.modelsPath)');
  }
  return modelsDir.replace(/(.)\/+$/, '$1');
}
