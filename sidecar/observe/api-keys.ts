/** The API keys of a mounted Secret: each file's content is a key. Read again whenever the kubelet swaps the mount. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type KeyHash, keyHash } from '../decide/api-key.ts';

/** The kubelet refreshes mounts about once a minute; looking is cheap. */
const lookEveryMs = 1_000;
/** A Secret holds at most 1 MiB; no key is longer than this, bytes. */
const keyBytesMax = 4 * 1024;
const keysMax = 1_000;

export interface ApiKeys {
  /** null: no keys are asked for. An empty list admits nobody. */
  readonly current: () => readonly KeyHash[] | null;
  readonly close: () => void;
}

async function readKeys(dir: string): Promise<KeyHash[]> {
  const files = (await readdir(dir)).filter((name) => !name.startsWith('.')).slice(0, keysMax);
  const keys: KeyHash[] = [];
  for (const name of files) {
    const text = await readFile(join(dir, name), 'utf8').catch(() => '');
    const key = text.trim();
    if (key !== '' && key.length <= keyBytesMax) keys.push(keyHash(key));
  }
  return keys;
}

/**
 * Starts reading the folder; resolves when the first reading is done.
 * @param dir null when the Model names no Secret
 * @param warn told when the folder cannot be read: the keys known before stay, at first nobody is admitted
 */
export async function watchApiKeys(
  dir: string | null,
  warn: (error: unknown) => void,
  everyMs = lookEveryMs,
): Promise<ApiKeys> {
  if (dir === null) return { current: () => null, close: () => {} };
  let keys: KeyHash[] = [];
  let failing = false;
  const look = async (): Promise<void> => {
    try {
      keys = await readKeys(dir);
      failing = false;
    } catch (error) {
      if (!failing) warn(error);
      failing = true;
    }
  };
  await look();
  let looking = false;
  const timer = setInterval(() => {
    if (looking) return;
    looking = true;
    void look().finally(() => {
      looking = false;
    });
  }, everyMs);
  timer.unref();
  return { current: () => keys, close: () => clearInterval(timer) };
}
