/**
 * Figures of proof: what a test really did, kept as one JSON line per run where `SPLITSITE_EVIDENCE` names a folder, so
 * that the evidence sheet adds up what happened and not what was intended. Without it nothing is kept. Each line names the
 * commit it speaks of (`SPLITSITE_EVIDENCE_COMMIT`), since long runs are made in slices.
 */
import { appendFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";

export type EvidenceKind =
  | "simulation"
  | "faults by state"
  | "crash states"
  | "kills"
  | "power cuts"
  | "failovers"
  | "corruptions"
  | "disk faults"
  | "line faults"
  | "hostile clients"
  | "fuzzing"
  | "soak"
  | "overflows";

/** Counts that add up over runs; of a name that ends in `max` the largest counts. */
export type EvidenceFigures = Readonly<Record<string, number>>;

export interface EvidenceLine {
  readonly commit: string;
  readonly kind: EvidenceKind;
  readonly figures: EvidenceFigures;
}

/** What a run that came to its end has shown: its oracles would have ended it otherwise. */
export const nothingLost: EvidenceFigures = { "durable writes lost": 0, "states not a prefix": 0 };

export const evidenceFileName = "figures.jsonl";

/** A run that fails never gets here: its figures are not evidence. */
export function noteEvidence(kind: EvidenceKind, figures: EvidenceFigures): void {
  const folder = process.env["SPLITSITE_EVIDENCE"];
  if (folder === undefined || folder === "") return;
  mkdirSync(folder, { recursive: true });
  const commit = process.env["SPLITSITE_EVIDENCE_COMMIT"] ?? "unknown";
  const line: EvidenceLine = { commit, kind, figures };
  // One short write with O_APPEND: test files that run side by side do not mix their lines.
  appendFileSync(join(folder, evidenceFileName), `${JSON.stringify(line)}\n`);
}
