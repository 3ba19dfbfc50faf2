/**
 * Path to endpoint of every inference route (docs/front-door.md), in a file without the schema library that api/ brings: the front
 * door of each pod has no room for it. `any` opens with whatever is open. Every route takes POST.
 */
import type { EndpointName } from '#api/model.ts';

export const routeEndpoints: ReadonlyMap<string, EndpointName | 'any'> = new Map([
  ['/v1/chat/completions', 'chat_completions'],
  ['/v1/completions', 'completions'],
  ['/v1/responses', 'responses'],
  ['/v1/messages', 'messages'],
  ['/v1/messages/count_tokens', 'messages'],
  ['/v1/embeddings', 'embeddings'],
  ['/v1/audio/transcriptions', 'audio_transcriptions'],
  ['/v1/audio/translations', 'audio_translations'],
  ['/v1/audio/speech', 'audio_speech'],
  ['/v1/images/generations', 'images_generations'],
  ['/v1/score', 'score'],
  ['/score', 'score'],
  ['/v1/rerank', 'rerank'],
  ['/v2/rerank', 'rerank'],
  ['/rerank', 'rerank'],
  ['/classify', 'classify'],
  ['/pooling', 'pooling'],
  ['/tokenize', 'tokenize'],
  ['/detokenize', 'detokenize'],
  ['/invocations', 'any'],
]);
