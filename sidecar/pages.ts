/** The pages that answer while the model sleeps. */
import { join } from 'node:path';
import { sockets } from '#proto/names.ts';
import { refuse, respond, respondJson } from './act/respond.ts';
import type { Environment } from './decide/environment.ts';
import type { Gate } from './decide/gate.ts';
import { type ModelCard, modelCards, readModels } from './decide/models.ts';
import type { Page } from './decide/routes.ts';
import { isHealthy, isReady, shownState, statusDocument } from './decide/status.ts';
import type { Exchange } from './exchange.ts';
import type { Metrics } from './metrics.ts';
import { askEngine, vllmFamilies } from './observe/engine.ts';

/** Pause before the engine is asked for its models again, while it has not said them. */
const askAgainMs = 2_000;
const exposition = 'text/plain; version=0.0.4; charset=utf-8';

export interface Pages {
  answer(exchange: Exchange, page: Page, id: string): void;
  /** The agent told a state: the engine may have booted. */
  told(): void;
}

interface PagesParts {
  environment: Environment;
  gate: Gate;
  metrics: Metrics;
  now: () => number;
}

/** The engine's own metrics: fresh where it answers, else as they were when it last did. One question at a time. */
function engineMetrics(socketPath: string, gate: Gate): () => Promise<string> {
  let last = '';
  let asking: Promise<string> | null = null;
  return () => {
    if (!gate.told.bootReady) return Promise.resolve('');
    asking ??= askEngine(socketPath, '/metrics')
      .then((text) => {
        last = vllmFamilies(text);
        return last;
      })
      .catch(() => last)
      .finally(() => {
        asking = null;
      });
    return asking;
  };
}

/** The engine's models, asked for once it has booted and kept from then on. */
function engineModels(socketPath: string, gate: Gate): { cards: () => ModelCard[] | null; ask: () => void } {
  let cards: ModelCard[] | null = null;
  let asking = false;
  const ask = () => {
    if (cards || asking || !gate.told.bootReady) return;
    asking = true;
    askEngine(socketPath, '/v1/models')
      .then((text) => {
        cards = readModels(text);
      })
      .catch(() => {})
      .finally(() => {
        asking = false;
        if (!cards) setTimeout(ask, askAgainMs).unref();
      });
  };
  return { cards: () => cards, ask };
}

export function createPages({ environment, gate, metrics, now }: PagesParts): Pages {
  const { own, podDir } = environment;
  const socketPath = join(podDir, sockets.engine);
  const createdS = Math.floor(Date.now() / 1000);
  const askMetrics = engineMetrics(socketPath, gate);
  const models = engineModels(socketPath, gate);
  const cards = (): ModelCard[] => modelCards(own.names, models.cards(), createdS);

  const answer = (exchange: Exchange, page: Page, id: string) => {
    switch (page) {
      case 'root':
        return respondJson(exchange, 200, { model: own.model, status: '/status', models: '/v1/models' });
      case 'status':
        return respondJson(exchange, 200, statusDocument(gate, own, now()));
      case 'health':
        return respondJson(exchange, isHealthy(gate) ? 200 : 503, {
          state: shownState(gate),
          bootReady: gate.told.bootReady,
        });
      case 'ready':
        return respondJson(exchange, isReady(gate) ? 200 : 503, {
          state: shownState(gate),
          ready: isReady(gate),
        });
      case 'models':
        return respondJson(exchange, 200, { object: 'list', data: cards() });
      case 'model': {
        const card = cards().find((one) => one.id === id);
        if (card) return respondJson(exchange, 200, card);
        return refuse(exchange, {
          code: 'model_not_found',
          detail: `Here: ${own.names.join(', ')}.`,
          param: 'model',
        });
      }
      case 'metrics':
        void askMetrics()
          .then((engine) => metrics.text(engine))
          .then((body) => respond(exchange, { status: 200, type: exposition, body }));
        return;
      default:
        page satisfies never;
    }
  };
  return { answer, told: models.ask };
}
