/** Where each tensor goes in the file `weights`, and what each chunk of it is made of (docs/weights.md). */
import { alignmentOf, alignUp, largePageBytes, weightsChunkBytes } from '#proto/weights.ts';
import type { SourceTensor } from './safetensors.ts';

/** A tensor and its place in `weights`; of a hundred thousand no copies are made. */
export interface PlacedTensor {
  tensor: SourceTensor;
  offset: number;
}

export interface Layout {
  /** Ascending by offset. */
  tensors: PlacedTensor[];
  /** Of the whole file. */
  bytes: number;
}

const embeddings = /(^|\.)(embed\w*|tok_embeddings|word_embeddings|wte|wpe|shared)(\.|$)/;
const layer = /(?:^|\.)(?:layers?|h|blocks?)\.(\d+)(?:\.|$)/;

/** When an engine needs a tensor: embeddings before all, then layers by number, then the rest. */
function needOf(name: string): number {
  const number = layer.exec(name)?.[1];
  if (number !== undefined) return Math.min(Number(number), Number.MAX_SAFE_INTEGER - 2);
  return embeddings.test(name) ? -1 : Number.MAX_SAFE_INTEGER;
}

/** Tensors needed together: the large ones on their pages, the small ones in the gaps between them, else behind. */
function placeGroup(group: readonly SourceTensor[], begin: number): { tensors: PlacedTensor[]; end: number } {
  const tensors: PlacedTensor[] = [];
  const small = group.filter(({ bytes }) => bytes < largePageBytes);
  let end = begin;
  let next = 0;
  const place = (tensor: SourceTensor): void => {
    const offset = alignUp(end, alignmentOf(tensor.bytes));
    tensors.push({ tensor, offset });
    end = offset + tensor.bytes;
  };
  const fillUpTo = (limit: number): void => {
    for (let one = small[next]; one && alignUp(end, alignmentOf(one.bytes)) + one.bytes <= limit; ) {
      place(one);
      one = small[++next];
    }
  };
  for (const tensor of group) {
    if (tensor.bytes < largePageBytes) continue;
    fillUpTo(alignUp(end, largePageBytes));
    place(tensor);
  }
  fillUpTo(Number.POSITIVE_INFINITY);
  return { tensors, end };
}

/** The same tensors give the same layout, in whatever order they come. */
export function layOut(source: readonly SourceTensor[]): Layout {
  // 1. by need; 2. by name, so that what belongs together stays together.
  const needs = new Map(source.map((tensor) => [tensor, needOf(tensor.name)]));
  const need = (tensor: SourceTensor): number => needs.get(tensor)!;
  const sorted = [...source].sort((a, b) => need(a) - need(b) || (a.name < b.name ? -1 : 1));
  const tensors: PlacedTensor[] = [];
  let end = 0;
  for (let at = 0; at < sorted.length; ) {
    const first = need(sorted[at]!);
    const group: SourceTensor[] = [];
    for (; at < sorted.length && need(sorted[at]!) === first; at++) group.push(sorted[at]!);
    const placed = placeGroup(group, end);
    for (const tensor of placed.tensors) tensors.push(tensor);
    end = placed.end;
  }
  return { tensors, bytes: alignUp(end, largePageBytes) };
}

/** Bytes of one file that go to one place of a chunk. */
export interface Piece {
  path: string;
  /** In that file. */
  position: number;
  /** In the chunk. */
  at: number;
  bytes: number;
}

export interface Chunk {
  index: number;
  bytes: number;
  /** Ascending by `at`; between them lie zeros. */
  pieces: Piece[];
}

export const chunksOf = (bytes: number): number => Math.ceil(bytes / weightsChunkBytes);

/** The chunks from a given one on, one after the other: all at once would be large. */
export function* chunks({ tensors, bytes }: Layout, first = 0): Generator<Chunk> {
  let next = 0;
  for (let index = first; index < chunksOf(bytes); index++) {
    const begin = index * weightsChunkBytes;
    const end = Math.min(begin + weightsChunkBytes, bytes);
    const pieces: Piece[] = [];
    while (next < tensors.length && endOf(tensors[next]!) <= begin) next++;
    for (let at = next; at < tensors.length && tensors[at]!.offset < end; at++) {
      addPiece(pieces, tensors[at]!, begin, end);
    }
    yield { index, bytes: end - begin, pieces };
  }
}

const endOf = ({ tensor, offset }: PlacedTensor): number => offset + tensor.bytes;

function addPiece(pieces: Piece[], placed: PlacedTensor, begin: number, end: number): void {
  const { tensor, offset } = placed;
  const from = Math.max(offset, begin);
  const bytes = Math.min(endOf(placed), end) - from;
  if (bytes === 0) return;
  const piece = {
    path: tensor.path,
    position: tensor.position + from - offset,
    at: from - begin,
    bytes,
  };
  const last = pieces.at(-1);
  const follows =
    last?.path === piece.path &&
    last.position + last.bytes === piece.position &&
    last.at + last.bytes === piece.at;
  if (follows) last.bytes += bytes;
  else pieces.push(piece);
}
