/** Which HTTP route belongs to which endpoint of a Model's spec (contract, section 4). */
import { defaultEndpoints, type EndpointName, type ModelType } from '#api/model.ts';

/** Path to endpoint; `any` opens with whatever is open. Every route takes POST. */
export const inferenceRoutes: Readonly<Record<string, EndpointName | 'any'>> = {
  '/v1/chat/completions': 'chat_completions',
  '/v1/completions': 'completions',
  '/v1/responses': 'responses',
  '/v1/messages': 'messages',
  '/v1/messages/count_tokens': 'messages',
  '/v1/embeddings': 'embeddings',
  '/v1/audio/transcriptions': 'audio_transcriptions',
  '/v1/audio/translations': 'audio_translations',
  '/v1/audio/speech': 'audio_speech',
  '/v1/images/generations': 'images_generations',
  '/v1/score': 'score',
  '/score': 'score',
  '/v1/rerank': 'rerank',
  '/v2/rerank': 'rerank',
  '/rerank': 'rerank',
  '/classify': 'classify',
  '/pooling': 'pooling',
  '/tokenize': 'tokenize',
  '/detokenize': 'detokenize',
  '/invocations': 'any',
};

/** The endpoints a Model opens: those it names, else its type's. */
export const openEndpoints = (spec: {
  endpoints?: EndpointName[] | undefined;
  modelType: ModelType;
}): EndpointName[] => [...(spec.endpoints ?? defaultEndpoints[spec.modelType])];
