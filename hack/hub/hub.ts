/**
 * A stub of the HuggingFace hub: what a fetch uses of it, and counts of what was downloaded. Models are folders
 * (repository.ts); faults come from a model's `.hub.json`, from POST /faults or from a test (faults.ts).
 */
import { join } from 'node:path';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { type Refusal, refusal } from './access.ts';
import { sendContent } from './content.ts';
import { type Fault, Faults } from './faults.ts';
import { type Repository, readRepository, repositoryIds, type StoredFile } from './repository.ts';

export interface HubOptions {
  /** Folder of the models. */
  files: string;
  host?: string;
  /** 0: any free port. */
  port?: number;
  /** Entries a page of a listing. */
  pageSize?: number;
  /** Where large files are redirected to; absent: a path of this server. */
  cdnUrl?: string;
}

export interface ModelStats {
  /** GETs of a file's contents, resumed ones included. */
  downloads: number;
  bytes: number;
  files: Record<string, number>;
}

export interface Stats {
  models: Record<string, ModelStats>;
  /** Requests of any kind for lists and revisions. */
  apiRequests: number;
  /** Contents asked for from the CDN with a token: a client must not send one there. */
  cdnRequestsWithToken: number;
}

export interface Hub {
  url: string;
  faults: Faults;
  stats(): Stats;
  resetStats(): void;
  close(): Promise<void>;
}

const emptyStats = (): Stats => ({ models: {}, apiRequests: 0, cdnRequestsWithToken: 0 });

interface Params {
  org: string;
  name: string;
  revision: string;
  '*': string;
}
type Request = FastifyRequest<{ Params: Params }>;

/** Refuses in the hub's own words. */
function refuse(reply: FastifyReply, { status, code, message }: Refusal): FastifyReply {
  return reply
    .code(status)
    .headers({ 'x-error-code': code, 'x-error-message': message })
    .send({ error: message });
}

const noEntry: Refusal = { status: 404, code: 'EntryNotFound', message: 'Entry not found' };

class HubServer {
  readonly faults = new Faults();
  counted = emptyStats();
  private readonly options: HubOptions;
  /** Repositories whose own faults are in force already. */
  private readonly faultsRead = new Set<string>();

  constructor(options: HubOptions) {
    this.options = options;
  }

  routes(app: FastifyInstance): void {
    app.get<{ Params: Params }>('/api/models/:org/:name/revision/:revision', (request, reply) =>
      this.revision(request, reply),
    );
    app.get<{ Params: Params }>('/api/models/:org/:name/tree/:revision', (request, reply) =>
      this.tree(request, reply),
    );
    app.get<{ Params: Params }>('/:org/:name/resolve/:revision/*', (request, reply) =>
      this.resolve(request, reply),
    );
    app.get<{ Params: Params }>('/cdn/:org/:name/*', (request, reply) => this.cdn(request, reply));
    app.get('/stats', async () => this.counted);
    app.post('/stats/reset', async () => {
      this.counted = emptyStats();
      return {};
    });
    app.post<{ Body: Fault[] }>('/faults', async ({ body }) => {
      this.faults.add(...body);
      return {};
    });
    app.post('/faults/clear', async () => {
      this.faults.clear();
      return {};
    });
    app.get('/health', async () => ({ models: await repositoryIds(this.options.files) }));
  }

  /** The repository a request names; null when it was refused already. */
  private async repository(
    request: Request,
    reply: FastifyReply,
    where: 'api' | 'file',
  ): Promise<Repository | null> {
    const { org, name, revision } = request.params;
    const id = `${org}/${name}`;
    if (where === 'api') this.counted.apiRequests++;
    const found = await readRepository(this.options.files, id);
    if (found && !this.faultsRead.has(id)) {
      this.faultsRead.add(id);
      this.faults.add(...(found.config.faults ?? []).map((fault) => ({ ...fault, model: id })));
    }
    const fault = this.faults.take('status', { where, model: id, path: request.params['*'] ?? '' });
    if (fault?.kind === 'status') {
      if (fault.retryAfterSeconds !== undefined) reply.header('retry-after', fault.retryAfterSeconds);
      reply.code(fault.status).send({ error: `fault: ${fault.status}` });
      return null;
    }
    const refused = refusal(id, found, { where, authorization: request.headers.authorization, revision });
    if (refused) refuse(reply, refused);
    if (refused || !found) return null;
    return found;
  }

  private async revision(request: Request, reply: FastifyReply): Promise<unknown> {
    const found = await this.repository(request, reply, 'api');
    if (!found) return reply;
    return {
      _id: found.commit.slice(0, 24),
      id: found.id,
      sha: found.commit,
      private: found.config.private ?? false,
      gated: found.config.gated ? 'manual' : false,
      downloads: 0,
      likes: 0,
      lastModified: '2026-01-01T00:00:00.000Z',
      siblings: found.files.map(({ path }) => ({ rfilename: path })),
    };
  }

  private async tree(request: Request, reply: FastifyReply): Promise<unknown> {
    const found = await this.repository(request, reply, 'api');
    if (!found) return reply;
    const query = request.query as { cursor?: string };
    const start = Number(query.cursor ?? 0);
    const end = start + (this.options.pageSize ?? 1000);
    if (end < found.files.length) {
      const next = new URL(request.url, `http://${request.headers.host}`);
      next.searchParams.set('cursor', String(end));
      reply.header('link', `<${next}>; rel="next"`);
    }
    return found.files.slice(start, end).map(({ path, size, oid, sha256 }) => ({
      type: 'file',
      path,
      size,
      oid,
      ...(sha256 ? { lfs: { oid: sha256, size, pointerSize: 134 } } : {}),
    }));
  }

  private async resolve(request: Request, reply: FastifyReply): Promise<unknown> {
    const found = await this.repository(request, reply, 'file');
    if (!found) return reply;
    const file = found.files.find(({ path }) => path === request.params['*']);
    if (!file) return refuse(reply, noEntry);
    const headers = {
      'x-repo-commit': found.commit,
      etag: `"${file.sha256 ?? file.oid}"`,
      ...(file.sha256 ? { 'x-linked-size': String(file.size), 'x-linked-etag': `"${file.sha256}"` } : {}),
    };
    if (file.sha256) {
      const path = `/cdn/${found.id}/${file.path.split('/').map(encodeURIComponent).join('/')}`;
      return reply
        .code(302)
        .headers({ ...headers, location: `${this.options.cdnUrl ?? ''}${path}` })
        .send();
    }
    return this.content(request, reply, { found, file, headers });
  }

  private async cdn(request: Request, reply: FastifyReply): Promise<unknown> {
    if (request.headers.authorization) this.counted.cdnRequestsWithToken++;
    const id = `${request.params.org}/${request.params.name}`;
    const found = await readRepository(this.options.files, id);
    const file = found?.files.find(({ path }) => path === request.params['*']);
    if (!found || !file) return refuse(reply, noEntry);
    return this.content(request, reply, { found, file, headers: { etag: `"${file.sha256}"` } });
  }

  private async content(
    request: Request,
    reply: FastifyReply,
    { found, file, headers }: { found: Repository; file: StoredFile; headers: Record<string, string> },
  ): Promise<unknown> {
    if (request.method === 'HEAD') return reply.headers({ ...headers, 'content-length': file.size }).send();
    const stats = this.counted.models[found.id] ?? { downloads: 0, bytes: 0, files: {} };
    this.counted.models[found.id] = stats;
    stats.downloads++;
    stats.files[file.path] = (stats.files[file.path] ?? 0) + 1;
    reply.hijack();
    await sendContent(reply.raw, {
      file: join(found.folder, file.path),
      size: file.size,
      headers,
      range: request.headers.range,
      fault: this.faults.take('body', { where: 'file', model: found.id, path: file.path }),
      onSent: (bytes) => {
        stats.bytes += bytes;
      },
    });
    return reply;
  }
}

/** Starts a hub; it listens on 127.0.0.1 unless told otherwise. */
export async function startHub(options: HubOptions): Promise<Hub> {
  const server = new HubServer(options);
  const app = Fastify({ forceCloseConnections: true, exposeHeadRoutes: true });
  server.routes(app);
  const url = await app.listen({ host: options.host ?? '127.0.0.1', port: options.port ?? 0 });
  return {
    url,
    faults: server.faults,
    stats: () => server.counted,
    resetStats: () => {
      server.counted = emptyStats();
    },
    close: () => app.close(),
  };
}
