/**
 * Is what an operator reads ever better than the truth for longer than 15 s (I11)? Judged from plain facts, with the
 * truth taken from the clients' own book. Imports nothing of the product.
 */
import type { OwnerBook } from "./owner-book.ts";
import { require } from "./violation.ts";

/** Longest that a status may be better than reality, ms. */
export const honestyMs = 15_000;

export interface OwnerClaim {
  readonly state: string;
  readonly io: string;
  readonly lagWrites: number;
  readonly unflushedMayBeLost: boolean;
}

/**
 * `standbyDurable`: what the standby has really called durable so far. `shownMs`: how long "protected" has been shown
 * without a break: a state may be wrong, but not for longer than promised.
 */
export function judgeOwnerClaim(
  claim: OwnerClaim,
  book: OwnerBook,
  standbyDurable: number,
  nowMs: number,
  shownMs: number,
): void {
  const missing = book.answeredMax - standbyDurable;
  require("I11", claim.state !== "protected" || claim.io === "serving", () =>
    `${book.name} says protected while its io is ${claim.io}`);
  if (claim.io === "serving" || claim.io === "held") {
    require("I4", claim.lagWrites >= missing, () =>
      `${book.name} states a lag of ${claim.lagWrites} writes; ${missing} answered ones are missing at the standby`);
  }
  if (claim.state !== "protected" || missing <= 0) return;
  const oldest = book.history.ops[standbyDurable];
  const ageMs = oldest === undefined ? 0 : nowMs - oldest.answeredAtMs;
  require("I11", Math.min(ageMs, shownMs) <= honestyMs, () =>
    `${book.name} has said protected for ${Math.round(shownMs)} ms; write ${standbyDurable + 1}, answered ${Math.round(ageMs)} ms ago, is not at the standby`);
}

/** After power took answered writes, the owner says so until an operator accepts it. */
export function judgeLossNotice(book: OwnerBook, unflushedMayBeLost: boolean): void {
  require("I11", !book.lostAnswered || unflushedMayBeLost, () =>
    `${book.name} lost answered writes with the power and does not say so`);
}

/** The loss that is stated as proven is never more than what was really written beyond the seal. */
export function judgeStatedLoss(book: OwnerBook, writesMin: number, sealed: number): void {
  const truth = Math.max(0, book.writtenMax - sealed);
  require("I4", writesMin <= truth, () =>
    `${book.name}: a loss of at least ${writesMin} writes is stated; at most ${truth} were written beyond ${sealed}`);
}

/**
 * `silentMs`: since the last request of the owner arrived; null: never. `missingMs`: how long ago the oldest write that
 * was sent and is not applied was answered. `shownMs`: as above.
 */
export function judgeStandbyClaim(
  name: string,
  state: string,
  silentMs: number | null,
  missingMs: number,
  shownMs: number,
): void {
  if (state !== "protected") return;
  require("I11", silentMs !== null && silentMs <= honestyMs, () =>
    `${name} says protected; its owner was last heard ${silentMs === null ? "never" : `${Math.round(silentMs)} ms ago`}`);
  require("I11", Math.min(missingMs, shownMs) <= honestyMs, () =>
    `${name} has said protected for ${Math.round(shownMs)} ms; a write answered ${Math.round(missingMs)} ms ago and sent is not applied`);
}
