/** Small models with the files and shapes of real ones: a valid safetensors file, config, tokenizer. */
import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

export const modelKinds = ['chat', 'asr', 'embedding', 'reranker', 'tts'] as const;
export type ModelKind = (typeof modelKinds)[number];

/** What vLLM reads from config.json to know what it serves. */
const configs: Record<ModelKind, Record<string, unknown>> = {
  chat: { architectures: ['LlamaForCausalLM'], model_type: 'llama', max_position_embeddings: 8192 },
  asr: {
    architectures: ['WhisperForConditionalGeneration'],
    model_type: 'whisper',
    max_target_positions: 448,
    max_position_embeddings: 448,
  },
  embedding: { architectures: ['XLMRobertaModel'], model_type: 'xlm-roberta', max_position_embeddings: 8194 },
  reranker: {
    architectures: ['XLMRobertaForSequenceClassification'],
    model_type: 'xlm-roberta',
    max_position_embeddings: 8194,
  },
  tts: { architectures: ['CsmForConditionalGeneration'], model_type: 'csm', max_position_embeddings: 2048 },
};

/** What a model of that name is, by the words upstream names use. */
export function kindOf(id: string): ModelKind {
  if (/whisper/i.test(id)) return 'asr';
  if (/rerank/i.test(id)) return 'reranker';
  if (/bge|embed|e5-|gte-/i.test(id)) return 'embedding';
  return /tts|csm|orpheus/i.test(id) ? 'tts' : 'chat';
}

export interface ModelOptions {
  /** Bytes of all tensors; a few hundred KiB unless told otherwise. */
  weightBytes?: number;
  /** The engine simulator's parameters: a sim.json beside the weights. */
  simulation?: Record<string, unknown>;
}

const defaultWeightBytes = 256 * 1024;
/** Bytes of one bfloat16 row of the stand-in tensors. */
const rowBytes = 128;

/**
 * A safetensors file: 8 bytes little-endian header length, JSON header, tensors one after another.
 * @param seed different seeds give different bytes
 */
export function safetensors(seed: string, weightBytes: number): Buffer {
  const layers = 2;
  const rows = Math.max(1, Math.floor(weightBytes / rowBytes / layers));
  const tensor = (index: number) => ({
    dtype: 'BF16',
    shape: [rows, rowBytes / 2],
    data_offsets: [index * rows * rowBytes, (index + 1) * rows * rowBytes],
  });
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  for (let layer = 0; layer < layers; layer++) header[`model.layers.${layer}.weight`] = tensor(layer);
  const json = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([json, Buffer.alloc((8 - (json.length % 8)) % 8, ' ')]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  // One pseudo-random block, repeated: distinct per model, quick to make at any size.
  const block = Buffer.alloc(4096);
  for (let at = 0; at < block.length; at += 32) {
    createHash('sha256').update(`${seed} ${at}`).digest().copy(block, at);
  }
  return Buffer.concat([length, padded, Buffer.alloc(rows * rowBytes * layers, block)]);
}

const chatTemplate =
  "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}";

/** Writes one model to `<folder>/<id>/`, over what is there. */
export async function writeModel(folder: string, id: string, options: ModelOptions = {}): Promise<void> {
  const kind = kindOf(id);
  const vocabulary = Object.fromEntries(
    ['<unk>', '<s>', '</s>', 'a', 'b'].map((token, index) => [token, index]),
  );
  const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
  const files: Record<string, string | Buffer> = {
    'config.json': json({
      ...configs[kind],
      torch_dtype: 'bfloat16',
      hidden_size: 64,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      vocab_size: Object.keys(vocabulary).length,
    }),
    'tokenizer.json': json({
      version: '1.0',
      added_tokens: [],
      model: { type: 'BPE', vocab: vocabulary, merges: [] },
    }),
    'tokenizer_config.json': json({
      tokenizer_class: 'PreTrainedTokenizerFast',
      ...(kind === 'chat' ? { chat_template: chatTemplate } : {}),
    }),
    'model.safetensors': safetensors(id, options.weightBytes ?? defaultWeightBytes),
    'README.md': `# ${id}\n\nA stand-in of the same name and shape, for tests.\n`,
    ...(options.simulation ? { 'sim.json': json(options.simulation) } : {}),
  };
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(folder, id, path)), { recursive: true });
    await writeFile(join(folder, id, path), content);
  }
}

/** The models that the reference page, the demo and the suites name. */
export const defaultModels = [
  'meta-llama/Llama-3.1-8B-Instruct',
  'openai/whisper-large-v3-turbo',
  'Qwen/Qwen2.5-0.5B-Instruct',
  'BAAI/bge-m3',
  'BAAI/bge-reranker-v2-m3',
  'openai/gpt-oss-20b',
];
