/** The owner's order to keep the standby's point before a repair replaces something there, and its answers. Pure. */
import type { ScanAnswer, ScanAsk } from "./control.ts";
import { controlBytesMax, parseScanAnswer } from "./control.ts";
import { countOf, malformed, parseFields, textOf } from "./fields.ts";
import type { Sequence } from "./ids.ts";

/** `after`: the begin of the verify that found what is to be repaired; names the pin, so that asking again is harmless. */
export type StandbyPinAsk = ScanAsk;

export type StandbyPinAnswer =
  | { readonly kind: "pinned"; readonly id: string; readonly sequence: Sequence }
  /** No history is kept there: nothing can be pinned, and nothing could be opened later. */
  | { readonly kind: "none" }
  | Extract<ScanAnswer, { readonly kind: "unknown" | "superseded" | "conflict" | "refused" }>;

/** RemoteProtocolError for anything else than an answer. */
export function parseStandbyPinAnswer(body: Uint8Array): StandbyPinAnswer {
  const fields = parseFields(body, controlBytesMax);
  if (fields["kind"] === "none") return { kind: "none" };
  if (fields["kind"] === "pinned")
    return {
      kind: "pinned",
      id: textOf(fields["id"], "id"),
      sequence: countOf(fields["sequence"], "sequence"),
    };
  const answer = parseScanAnswer(body);
  return answer.kind === "findings" ? malformed("kind") : answer;
}
