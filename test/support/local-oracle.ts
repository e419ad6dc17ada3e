/**
 * Oracle O2: after a crash of the agent, does every sector read as its last promised write or a later one? Judges each
 * sector for itself, with no idea of order between sectors; the prefix oracle does that. Shares no code with it or
 * with the product.
 */
import type { ExpectedRecord, Mutation } from "./expected.ts";
import { stampBytes } from "./stamp.ts";
import type { VolumeState } from "./state-reader.ts";
import { foundForeign, foundZero } from "./state-reader.ts";

/**
 * What the crash may not take: `answered` after the kill of a process; `durable` after a power loss of a group whose
 * plain answers promise no more (FLUSH and FUA only).
 */
export type Promised = "answered" | "durable";

/** Problems found, at most 20; empty when every promise was kept. */
export function judgeLocal(
  record: ExpectedRecord,
  state: readonly VolumeState[],
  promised: Promised,
): string[] {
  const isPromised = (mutation: Mutation) =>
    promised === "answered" ? mutation.outcome === "answered" : record.isDurable(mutation);
  const problems: string[] = [];
  for (const [volume, { found, foreign }] of state.entries()) {
    problems.push(...foreign);
    // The latest promised start of each sector: whatever ended before it was overwritten for good.
    const promisedStart = new Float64Array(found.length).fill(-1);
    /** Newest end of any zeroing request that may have happened. */
    const zeroedEnd = new Float64Array(found.length).fill(-1);
    for (const mutation of record.mutations) {
      if (mutation.volume !== volume) continue;
      const first = mutation.offset / stampBytes;
      const end = (mutation.offset + mutation.length) / stampBytes;
      if (isPromised(mutation)) {
        for (let at = first; at < end; at += 1)
          promisedStart[at] = Math.max(promisedStart[at]!, mutation.start);
      }
      if (mutation.kind !== "write") {
        for (let at = first; at < end; at += 1) zeroedEnd[at] = Math.max(zeroedEnd[at]!, mutation.end);
      }
    }
    for (const [sector, number] of found.entries()) {
      if (problems.length >= 20) return problems;
      if (number === foundForeign) continue;
      const at = sector * stampBytes;
      const shown = number === foundZero ? undefined : record.mutations[number];
      if (number !== foundZero) {
        const covers =
          shown !== undefined &&
          shown.volume === volume &&
          at >= shown.offset &&
          at < shown.offset + shown.length;
        if (!covers) {
          problems.push(
            `volume ${volume} sector ${sector}: shows write ${number}, which was never sent there`,
          );
          continue;
        }
      }
      const shownEnd = shown === undefined ? zeroedEnd[sector]! : shown.end;
      if (shownEnd < promisedStart[sector]!) {
        problems.push(
          `volume ${volume} sector ${sector}: ${shown === undefined ? "zero" : `write ${number}`} is older than what was promised`,
        );
      }
    }
  }
  return problems;
}
