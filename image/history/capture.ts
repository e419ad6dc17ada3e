/**
 * Captures one step: reads what its blocks hold, makes the set's chunks and appends them. The set survives power
 * loss when this settles. Knows nothing of the index, and holds a few chunks (`chunksAheadMax` and those that are being
 * written) and the runs of one step.
 */
import type { VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes } from "../../protocol/ids.ts";
import type { ImageReads } from "./before-images.ts";
import { readGroup } from "./before-images.ts";
import { captureOnThread } from "./capture-queue.ts";
import type { ChunkHeadInput, SetIdentity } from "./chunk.ts";
import { ChunkRoom } from "./chunk-room.ts";
import { packGroup } from "./pack.ts";
import type { Piece } from "./pieces.ts";
import { groupsOf } from "./pieces.ts";
import type { IndexedChunk, Segments } from "./segments.ts";
import type { TouchedRun } from "./touched.ts";

/**
 * Chunks that are read and made at once: the thread has the next ones while the main thread decodes a frame, 2 ms, in which it
 * makes six.
 */
const chunksAheadMax = 8;

interface MadeChunk {
  readonly head: ChunkHeadInput;
  /** A view of the room. */
  readonly bytes: Uint8Array;
  readonly room: ChunkRoom;
}

/**
 * The set's chunks, as they stand in the segments. The blocks must not change until this settles, other than `images.ready`
 * says. `mayEnd`: the set gets its last chunk, without which it counts nowhere, and its sync, behind that; a rejection is this
 * one's, and leaves the set begun.
 */
export async function appendSet(
  segments: Segments,
  set: SetIdentity,
  touched: ReadonlyMap<VolumeNumber, readonly TouchedRun[]>,
  images: ImageReads,
  mayEnd?: Promise<void>,
): Promise<IndexedChunk[]> {
  const chunks: IndexedChunk[] = [];
  const making: Promise<MadeChunk>[] = [];
  const appendNext = async (): Promise<void> => {
    const { head, bytes, room } = await making[0]!;
    if (head.isLast && mayEnd !== undefined) {
      if (chunks.length > 0) await segments.syncBegun();
      await mayEnd;
    }
    const place = await segments.append(head, bytes, () => room.giveBack());
    chunks.push({ place, head });
    making.splice(0, 1);
  };
  await segments.beginSet();
  // A view is sent to the thread with all of the memory that it is a view of.
  const { lineage, position } = set;
  const identity = {
    ...set,
    lineage: Uint8Array.from(lineage),
    position: { ...position, chain: Uint8Array.from(position.chain) },
  };
  let number = 0;
  try {
    for await (const { pieces, isLast } of withLast(groupsOf(touched, images))) {
      if (making.length === chunksAheadMax) await appendNext();
      const chunk = makeChunk(pieces, { ...identity, number, isLast }, images);
      // Met when it is its turn to be appended; until then it must not count as unhandled.
      chunk.catch(() => undefined);
      making.push(chunk);
      number += 1;
    }
    while (making.length > 0) await appendNext();
  } finally {
    // Nothing reads the images when this settles, also when something failed.
    await Promise.allSettled(making);
  }
  await segments.endSet();
  return chunks;
}

/** A set that keeps nothing is one chunk without runs: its end is a point all the same. */
async function* withLast(
  groups: AsyncIterable<readonly Piece[]>,
): AsyncGenerator<{ pieces: readonly Piece[]; isLast: boolean }> {
  let held: readonly Piece[] | undefined;
  for await (const group of groups) {
    // Held back until it is known whether it is the last one.
    if (held !== undefined) yield { pieces: held, isLast: false };
    held = group;
  }
  yield { pieces: held ?? [], isLast: true };
}

type Head = Omit<ChunkHeadInput, "runs">;

async function makeChunk(pieces: readonly Piece[], head: Head, images: ImageReads): Promise<MadeChunk> {
  for (const [volume, end] of endsOf(pieces, images)) await images.ready?.(volume, end);
  const room = ChunkRoom.take();
  const made = await makeOnThread(pieces, head, images, room);
  if (made !== undefined) return made;
  const lost = await readGroup(pieces, images, room.blocks);
  const { runs, rawBytes } = packGroup(pieces, room.blocks, lost);
  const whole = { ...head, runs };
  return { head: whole, bytes: room.seal(whole, rawBytes), room };
}

/** How far the pieces reach on each of their volumes. */
function endsOf(pieces: readonly Piece[], images: ImageReads): ReadonlyMap<VolumeNumber, number> {
  // Pieces ascend: the last one of a volume reaches furthest.
  return new Map(
    pieces.map(({ volume, first, blocks }) => [
      volume,
      Math.min((first + blocks) * blockBytes, images.sizeBytes(volume)),
    ]),
  );
}

/** Undefined where the thread cannot have the pieces: of several volumes, holes, not a file's, or not in the page cache. */
async function makeOnThread(
  pieces: readonly Piece[],
  head: Head,
  images: ImageReads,
  room: ChunkRoom,
): Promise<MadeChunk | undefined> {
  const volume = pieces[0]?.volume;
  if (volume === undefined || pieces.some((piece) => piece.isHole || piece.volume !== volume))
    return undefined;
  const volumeBytes = images.sizeBytes(volume);
  const answer = await images.lendDescriptor?.(volume, (fd) =>
    captureOnThread({ fd, volumeBytes, pieces, memory: room.memory, head }),
  );
  if (answer === undefined || answer === null) return undefined;
  const { runs, byteOffset, byteLength } = answer;
  return { head: { ...head, runs }, bytes: room.sealed(byteOffset, byteLength), room };
}
