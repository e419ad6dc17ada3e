/**
 * Which codec packs the next batch when the link says `auto`. Pure. Brotli makes about half of LZ4's bytes for many
 * times its work, so it is for lines that are slower than it; data that nothing shrinks is sent as it is, with a try now
 * and then.
 */
import type { BatchCodec } from "../../protocol/batch.ts";
import type { LineCodec } from "../../runtime/settings/types.ts";

/**
 * Below this the line, not the processor, is what a batch waits for, bytes/s: quality 2 packs incompressible data, its
 * worst case, at about 90 MB/s on one core, and a quarter of a core is what packing may cost.
 */
const brotliLineBytesPerSecond = 20 * 1024 * 1024;
/** A batch that keeps more than this share of its length did not shrink. */
const shrunkShare = 0.97;
/** After so many batches in a row that did not shrink, most are sent as they are. */
const stubbornBatches = 4;
/** One batch in so many is still tried. */
const retryEvery = 16;

export interface CodecState {
  /** Batches in a row that did not shrink. */
  readonly stubborn: number;
  /** Batches since the last try. */
  readonly untried: number;
}

export const codecStart: CodecState = { stubborn: 0, untried: 0 };

/** `lineBytesPerSecond`: what the line carries or may carry; undefined: not known yet. */
export function chooseCodec(
  state: CodecState,
  setting: LineCodec,
  lineBytesPerSecond: number | undefined,
): BatchCodec {
  if (setting !== "auto") return setting;
  if (state.stubborn >= stubbornBatches && state.untried < retryEvery - 1) return "none";
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
  return { stubborn: wireBytes > rawBytes * shrunkShare ? state.stubborn + 1 : 0, untried: 0 };
}
