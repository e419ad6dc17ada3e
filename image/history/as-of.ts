/**
 * What a volume held at a point, read while apply goes on: from before-images where a later step changed blocks, from
 * the image elsewhere. Writes nothing, and nothing waits for it.
 */
import type { Sequence, VolumeNumber } from "../../protocol/ids.ts";
import { blockBytes } from "../../protocol/ids.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { ImageReads } from "./before-images.ts";
import type { FoundBefore } from "./block-index.ts";
import type { ChunkHead } from "./chunk.ts";
import { blockIn } from "./chunk.ts";
import type { History } from "./history.ts";
import type { ChunkPlace } from "./segments.ts";

/** Chunks kept unpacked: 4 MiB of blocks. */
const chunksKeptMax = 16;
/** Blocks whose chunks are asked for before they are put: at most as many chunks, and no more than are kept. */
const blocksAhead = 8;

interface ReadChunk {
  readonly head: ChunkHead;
  readonly blocks: Uint8Array;
}

export class AsOfReader {
  readonly #history: History;
  readonly #images: Pick<ImageReads, "read">;
  readonly #sequence: Sequence;
  /** By place, the one used last at the end. */
  readonly #kept = new Map<string, Promise<ReadChunk>>();

  /** The point is held for as long as this reads. */
  constructor(history: History, images: Pick<ImageReads, "read">, sequence: Sequence) {
    this.#history = history;
    this.#images = images;
    this.#sequence = sequence;
  }

  /** OperationalErrors `HISTORY_*`; errors of the image. */
  async read(volume: VolumeNumber, offset: number, length: number): Promise<Uint8Array> {
    const capturedBefore = this.#history.captured;
    let found = await this.#lookUp(volume, offset, length);
    const content = Uint8Array.from(await this.#images.read(volume, offset, length));
    // A set was added meanwhile: what it changes has its rows by now. What has none had not changed when it was read.
    if (this.#history.captured !== capturedBefore) found = await this.#lookUp(volume, offset, length);
    const ahead = found.values();
    for (let count = 0; count < blocksAhead; count += 1) this.#readAhead(ahead);
    for (const [block, before] of found) {
      this.#readAhead(ahead);
      await this.#history.asking(() => this.#put(content, offset, volume, block, before));
    }
    return content;
  }

  /** Begins to read the next chunk, so that several are under way; a failure is met by who waits for it. */
  #readAhead(ahead: Iterator<FoundBefore>): void {
    const next = ahead.next();
    if (next.done !== true) void this.#chunk(next.value.place);
  }

  #lookUp(volume: VolumeNumber, offset: number, length: number): Promise<Map<number, FoundBefore>> {
    return this.#history.asking(async () => {
      const lookup = this.#history.lookup();
      try {
        const found = new Map<number, FoundBefore>();
        const end = Math.ceil((offset + length) / blockBytes);
        for (let block = Math.floor(offset / blockBytes); block < end; block += 1) {
          const before = await lookup.firstAfter(volume, block, this.#sequence);
          if (before !== undefined) found.set(block, before);
        }
        return found;
      } finally {
        await lookup.close();
      }
    });
  }

  /** Puts the part of a block that lies in `content`, which begins at `offset` of the volume. */
  async #put(
    content: Uint8Array,
    offset: number,
    volume: VolumeNumber,
    block: number,
    { place, last }: FoundBefore,
  ): Promise<void> {
    const { head, blocks } = await this.#chunk(place);
    const bytes = head.position.sequence === last ? blockIn(head, blocks, volume, block) : undefined;
    if (bytes === undefined) throw disagreement(place);
    if (bytes === "lost") throw lost(volume, block, last);
    const at = block * blockBytes - offset;
    const start = Math.max(0, at);
    const end = Math.min(content.byteLength, at + blockBytes);
    if (bytes === "zeroes") content.fill(0, start, end);
    else content.set(bytes.subarray(start - at, end - at), start);
  }

  #chunk(place: ChunkPlace): Promise<ReadChunk> {
    const key = `${place.segment}:${place.offset}`;
    const chunk = this.#kept.get(key) ?? this.#history.readChunk(place);
    this.#kept.delete(key);
    this.#kept.set(key, chunk);
    // A failure is not kept; it is met by whoever waits for the chunk.
    chunk.catch(() => this.#kept.delete(key));
    if (this.#kept.size > chunksKeptMax) this.#kept.delete(this.#kept.keys().next().value!);
    return chunk;
  }
}

function lost(volume: VolumeNumber, block: number, last: Sequence): OperationalError {
  return new OperationalError({
    code: "BLOCK_LOST",
    message: `block ${block} of volume ${volume} could not be read when it was replaced, up to ${last}`,
    reaction: "refuse",
    hint: "Points before that do not have it; newer ones do. Look at the disk of the images.",
  });
}

function disagreement({ segment, offset }: ChunkPlace): OperationalError {
  return new OperationalError({
    code: "HISTORY_INDEX_DAMAGED",
    message: `the chunk at ${offset} of segment ${segment} is not the one that the index says`,
    reaction: "reopen",
    hint: "The index is made anew from the before-images when the history is opened again.",
  });
}
