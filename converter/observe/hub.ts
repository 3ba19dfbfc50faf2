/** What the hub says of a revision: its commit, and its files. */
import { listFiles, modelInfo } from '@huggingface/hub';
import { FetchFailure } from '../decide/failures.ts';
import { filesMax, type ListedFile } from '../decide/files.ts';
import { isCommit } from '../decide/places.ts';
import type { Http } from '../http.ts';

/** Longest page of a listing that is read, bytes; a page of 1000 files has some 300 KiB. */
const pageBytesMax = 16 * 1024 * 1024;
/** Most pages of a listing: the hub's have 1000 entries, a mirror's may have fewer. */
const pagesMax = 500;
/** Most entries: the files that are the most, and as many folders. */
const entriesMax = 2 * filesMax;

/** A `fetch` for the hub's library: our limits, retries and token; answers are whole and small. */
function fetchOver(http: Http): typeof fetch {
  return async (input) =>
    http.retried(async () => {
      const answer = await http.get(String(input), { accept: 'application/json' });
      const pieces: Buffer[] = [];
      let bytes = 0;
      for await (const piece of answer.body) {
        bytes += (piece as Buffer).length;
        if (bytes > pageBytesMax)
          throw new FetchFailure('BadListing', 'the hub answers more than 16 MiB for a list');
        pieces.push(piece as Buffer);
      }
      const headers = Object.entries(answer.headers).flatMap(([name, value]) =>
        [value ?? []].flat().map((one): [string, string] => [name, one]),
      );
      return new Response(Buffer.concat(pieces), { status: answer.status, headers });
    });
}

/** The library's own errors (an answer that is no JSON, say) are the hub's fault, not ours. */
async function understood<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    if (error instanceof FetchFailure) throw error;
    throw new FetchFailure('BadListing', `the hub's answer is not understood: ${(error as Error).message}`);
  }
}

/** The commit that a revision is now. @throws FetchFailure */
export async function resolveRevision(http: Http): Promise<string> {
  const { endpoint, modelName, revision } = http.asked;
  return understood(async () => {
    const info = await modelInfo({
      name: modelName,
      revision,
      hubUrl: endpoint,
      additionalFields: ['sha'],
      fetch: fetchOver(http),
    });
    if (!isCommit(info.sha)) throw new FetchFailure('BadListing', 'the hub names no commit for the revision');
    if (isCommit(revision) && info.sha !== revision) {
      throw new FetchFailure(
        'BadListing',
        `the hub answers with commit ${info.sha} where ${revision} was asked for: check that the mirror at HF_ENDPOINT has it, or set spec.revision`,
      );
    }
    return info.sha;
  });
}

/** All files of a commit. @throws FetchFailure */
export async function listCommit(http: Http, commit: string): Promise<ListedFile[]> {
  const { endpoint, modelName } = http.asked;
  const endless = () =>
    new FetchFailure(
      'BadListing',
      `the list of ${modelName}'s files does not end: more than ${pagesMax} pages or ${entriesMax} entries; check the mirror at HF_ENDPOINT`,
    );
  const fetchPage = fetchOver(http);
  let pages = 0;
  let seen = 0;
  return understood(async () => {
    const listed: ListedFile[] = [];
    const entries = listFiles({
      repo: { type: 'model', name: modelName },
      revision: commit,
      recursive: true,
      hubUrl: endpoint,
      fetch: async (input) => {
        if (++pages > pagesMax) throw endless();
        return fetchPage(input);
      },
    });
    for await (const { type, path, size, oid, lfs } of entries) {
      if (++seen > entriesMax) throw endless();
      if (type !== 'file') continue;
      listed.push({ path, size, oid: oid ?? null, lfsOid: lfs ? (lfs.oid ?? '') : null });
      if (listed.length > filesMax) break;
    }
    return listed;
  });
}
