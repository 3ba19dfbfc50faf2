/** `/v1/models` in vLLM's shape, from memory. */

/** One entry as vLLM wrote it. */
export type ModelCard = Record<string, unknown> & { id: string };

/** Reads an engine's answer to GET /v1/models; null when it is not one. */
export function readModels(text: string): ModelCard[] | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  const data = typeof value === 'object' && value !== null && 'data' in value ? value.data : null;
  if (!Array.isArray(data)) return null;
  const cards = data.filter(
    (card): card is ModelCard => typeof card === 'object' && card !== null && typeof card.id === 'string',
  );
  return cards.length > 0 ? cards : null;
}

/**
 * The cards to show: the engine's own from its first boot, else what is known without it (no max_model_len yet).
 * @param createdS when this front door started, Unix seconds
 */
export function modelCards(
  names: readonly string[],
  fromEngine: readonly ModelCard[] | null,
  createdS: number,
): ModelCard[] {
  const plain = (id: string): ModelCard => ({
    id,
    object: 'model',
    created: createdS,
    owned_by: 'vllm',
    root: names[0],
    parent: null,
    max_model_len: null,
    permission: [],
  });
  const known = new Map(fromEngine?.map((card) => [card.id, card]));
  const first = fromEngine?.[0];
  const ours = names.map((id) => known.get(id) ?? (first ? { ...first, id } : plain(id)));
  // What the engine serves beside its names: LoRA adapters.
  return [...ours, ...(fromEngine ?? []).filter(({ id }) => !names.includes(id))];
}
