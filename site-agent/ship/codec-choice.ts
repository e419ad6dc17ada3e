/**
 * Which codec packs the next batch when the link says `auto`. Pure. Brotli makes about half of LZ4's bytes for many
 * times its work, so it is for lines that are slower than it; a batch that nothing would shrink is sent as it is. What a
 * batch holds says so itself: what came before it does not, where a first sync and a client's writes take turns.
 */
import type { BatchCodec } from "../../protocol/batch.ts";
import type { Frame } from "../../protocol/frame.ts";
import { lz4Compress } from "../../protocol/lz4.ts";
import type { LineCodec } from "../../runtime/settings/types.ts";

/**
 * Below this the line, not the processor, is what a batch waits for, bytes/s: quality 2 packs incompressible data, its
 * worst case, at about 90 MB/s on one core, and a quarter of a core is what packing may cost.
 */
const brotliLineBytesPerSecond = 20 * 1024 * 1024;
/** A batch, or a sample of one, that keeps more than this share of its length did not shrink. */
const shrunkShare = 0.97;
/** One batch in so many is tried although its sample did not shrink: it may repeat itself further apart. */
const retryEvery = 16;
/** Pieces of a sample and their length, bytes: 64 KiB in all, 0.1 ms of LZ4 for a batch of up to 4 MiB. */
const samplePieces = 16;
const samplePieceBytes = 4096;

export interface CodecState {
  /** The last batch that was tried shrank. */
  readonly shrank: boolean;
  /** Batches since the last try. */
  readonly untried: number;
}

export const codecStart: CodecState = { shrank: false, untried: 0 };

/** Whether pieces of the frames' bodies, evenly spread, shrink together by themselves. */
export function sampleShrinks(frames: readonly Frame[]): boolean {
  const total = frames.reduce((sum, { body }) => sum + body.byteLength, 0);
  let kept = 0;
  let taken = 0;
  let next = 0;
  let start = 0;
  for (const { body } of frames) {
    for (; next < start + body.byteLength; next += Math.max(samplePieceBytes, total / samplePieces)) {
      const at = Math.floor(next - start);
      const piece = body.subarray(at, at + samplePieceBytes);
      kept += Math.min(piece.byteLength, lz4Compress(piece).byteLength);
      taken += piece.byteLength;
    }
    start += body.byteLength;
  }
  return kept <= taken * shrunkShare;
}

/**
 * `lineBytesPerSecond`: what the line carries or may carry; undefined: not known yet. `shrinks`: as of `sampleShrinks`;
 * asked only where it counts.
 */
export function chooseCodec(
  state: CodecState,
  setting: LineCodec,
  lineBytesPerSecond: number | undefined,
  shrinks: () => boolean,
): BatchCodec {
  if (setting !== "auto") return setting;
  if (!state.shrank && state.untried < retryEvery - 1 && !shrinks()) return "none";
  return lineBytesPerSecond !== undefined && lineBytesPerSecond < brotliLineBytesPerSecond ? "brotli" : "lz4";
}

/** What came of it. `codec`: the one that was asked for. */
export function noteCodec(
  state: CodecState,
  codec: BatchCodec,
  rawBytes: number,
  wireBytes: number,
): CodecState {
  if (codec === "none") return { ...state, untried: state.untried + 1 };
  return { shrank: wireBytes <= rawBytes * shrunkShare, untried: 0 };
}
