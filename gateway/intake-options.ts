/** Where a group's intake log is and how large it may grow: the one place that turns settings into log options. */
import assert from "node:assert/strict";
import type { FrameLogOptions } from "../journal/frame-log.ts";
import { bytesFromHex, lineageFromText } from "../protocol/ids.ts";
import type { GatewayGroupPaths } from "../runtime/paths.ts";
import type { StandbyDocument } from "./state.ts";

/** A group's share of the site's budgets, bytes. */
export interface IntakeLimits {
  readonly bytesMax: number;
  readonly reserveBytes: number;
  readonly memoryTailBytes: number;
  readonly writeBufferBytes: number;
}

/** Newest frames kept in memory for apply, all groups together: an apply that keeps up never reads the disk. */
const memoryTailBytesSite = 64 * 1024 * 1024;
const memoryTailBytesGroupMin = 2 * 1024 * 1024;
/** LevelDB write buffers, all groups together; a log may hold two of its own. */
const writeBufferBytesSite = 64 * 1024 * 1024;
const writeBufferBytesGroupMin = 1024 * 1024;
const writeBufferBytesGroupMax = 16 * 1024 * 1024;

/** Divides the site's intake budget evenly: one stalled group cannot take another's room. */
export function shareOfIntake(
  site: { readonly maxBytes: number; readonly reserveBytes: number },
  groups: number,
): IntakeLimits {
  const among = Math.max(1, groups);
  return {
    bytesMax: Math.floor(site.maxBytes / among),
    reserveBytes: site.reserveBytes,
    memoryTailBytes: Math.max(memoryTailBytesGroupMin, Math.floor(memoryTailBytesSite / among)),
    writeBufferBytes: Math.min(
      writeBufferBytesGroupMax,
      Math.max(writeBufferBytesGroupMin, Math.floor(writeBufferBytesSite / among)),
    ),
  };
}

export function intakeOptions(
  paths: GatewayGroupPaths,
  document: StandbyDocument,
  limits: IntakeLimits,
  bootId: string,
  mode: "create" | "open",
): FrameLogOptions {
  const lineage = lineageFromText(document.lineage);
  const genesis = bytesFromHex(document.genesis);
  assert(lineage !== undefined && genesis !== undefined, "the document was parsed");
  return {
    directory: paths.intake,
    watermarkPath: paths.intakeWatermark,
    // A batch is as long as a frame can be, and is acknowledged when it is synced: it goes where it stays.
    ahead: null,
    lineage,
    origin: { sequence: 0, chain: genesis, dataBytesTotal: 0, closedAtMs: 0 },
    mode,
    // Batches were just unpacked; packing them once more for seconds of storage is not worth the time.
    compression: "none",
    bytesMax: limits.bytesMax,
    reserveBytes: limits.reserveBytes,
    memoryTailBytes: limits.memoryTailBytes,
    bootId,
    writeBufferBytes: limits.writeBufferBytes,
  };
}
