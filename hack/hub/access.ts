/** Who may see what, in the real hub's statuses and X-Error-Code words. */
import type { Repository } from './repository.ts';

export interface Refusal {
  status: number;
  code: string;
  message: string;
}

export interface Access {
  where: 'api' | 'file';
  authorization: string | undefined;
  revision: string;
}

/** Why a request for a repository (null: there is none) is refused; null when it may pass. */
export function refusal(id: string, found: Repository | null, access: Access): Refusal | null {
  const token = /^Bearer (.+)$/.exec(access.authorization ?? '')?.[1];
  const known = token !== undefined && (found?.config.tokens?.includes(token) ?? false);
  // Without a token the real hub does not tell a private repository from none.
  if (!found || (found.config.private && !known)) {
    return token === undefined
      ? { status: 401, code: 'RepoNotFound', message: 'Invalid username or password.' }
      : { status: 404, code: 'RepoNotFound', message: 'Repository not found' };
  }
  if (found.config.gated && access.where === 'file' && !known) {
    const refused = token !== undefined && (found.config.refusedTokens?.includes(token) ?? false);
    return {
      status: refused ? 403 : 401,
      code: 'GatedRepo',
      message: `Access to model ${id} is restricted.`,
    };
  }
  if (access.revision !== 'main' && access.revision !== found.commit) {
    return { status: 404, code: 'RevisionNotFound', message: `Invalid rev id: ${access.revision}` };
  }
  return null;
}
