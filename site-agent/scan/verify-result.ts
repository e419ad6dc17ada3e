/** What a verify that is over has found, as it is told. Pure. Calls checked only what was. */
import type { Sequence, VolumeEntry } from "../../protocol/ids.ts";
import { scanChunkBytes } from "../../protocol/scan-digest.ts";
import type { VerifyResult } from "../../protocol/status.ts";
import { rfc3339 } from "../../runtime/clock.ts";
import { windowChunks } from "./plan.ts";
import type { BlockRange, ScanDocument } from "./scan-document.ts";

/** What is confirmed: all of a verify that was given up that can be called checked. */
function bytesBefore(volumes: readonly VolumeEntry[], place: ScanDocument["place"]): number {
  let bytes = 0;
  for (let index = 0; index < Math.min(place.volume, volumes.length); index += 1)
    bytes += volumes[index]!.sizeBytes;
  const volume = volumes[place.volume];
  if (volume === undefined) return bytes;
  return bytes + Math.min(volume.sizeBytes, place.window * windowChunks * scanChunkBytes);
}

/** What a verify found, by names; `end`: null where it was given up before it had one. */
export function resultOf(
  volumes: readonly VolumeEntry[],
  document: ScanDocument,
  how: "done" | "given-up",
  end: Sequence | null,
): VerifyResult {
  const { begin, startedAtMs, elapsedMs, place, differingBlocks, overwrittenChunks } = document;
  const name = (number: number) => volumes.find((volume) => volume.number === number)?.name ?? `${number}`;
  const named = ({ volume, start, end: stop }: BlockRange) => ({
    volume: name(volume),
    offset: start,
    length: stop - start,
  });
  const total = volumes.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const checkedBytes = how === "done" ? total : bytesBefore(volumes, place);
  return {
    begin: begin ?? 0,
    end,
    outcome: how,
    startedAt: rfc3339(startedAtMs),
    durationMs: elapsedMs,
    checkedBytes,
    uncheckedBytes: total - checkedBytes,
    differingBlocks,
    overwrittenChunks,
    differences: document.differences.map(named),
    unreadableBlocks: document.unreadableBlocks,
    unreadable: document.unreadable.map(named),
    history: { state: how === "done" ? "pending" : "unknown", check: null },
  };
}
