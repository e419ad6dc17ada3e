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

/** How far a claim that holds is from the truth. */
export interface ClaimError {
  /** Writes that are called lag, and are at the standby. */
  readonly lagTooMuch: number;
  /** For how long "protected" has been shown while it was not so, ms. */
  readonly protectedTooLongMs: number;
}

/**
 * `standbyOpen`: what a failover would open of what the standby has really called durable so far. `shownMs`: how long "protected" has been shown
 * without a break: a state may be wrong, but not for longer than promised.
 */
export function judgeOwnerClaim(
  claim: OwnerClaim,
  book: OwnerBook,
  standbyOpen: number,
  nowMs: number,
  shownMs: number,
): ClaimError {
  // What a scan put into the order carries nothing of a client's: missing it at the standby is no lag.
  const lacking = book.history.opsBetween(standbyOpen, book.answeredMax);
  const missing = lacking.length;
  require("I11", claim.state !== "protected" || claim.io === "serving", () =>
    `${book.name} says protected while its io is ${claim.io}`);
  const isStated = claim.io === "serving" || claim.io === "held";
  if (isStated) {
    require("I4", claim.lagWrites >= missing, () =>
      `${book.name} states a lag of ${claim.lagWrites} writes; ${missing} answered ones are missing at the standby`);
  }
  const lagTooMuch = isStated ? claim.lagWrites - missing : 0;
  if (claim.state !== "protected" || missing <= 0) return { lagTooMuch, protectedTooLongMs: 0 };
  const oldest = lacking[0];
  const ageMs = oldest === undefined ? 0 : nowMs - oldest.answeredAtMs;
  const protectedTooLongMs = Math.min(ageMs, shownMs);
  require("I11", protectedTooLongMs <= honestyMs, () =>
    `${book.name} has said protected for ${Math.round(shownMs)} ms; write ${standbyOpen + 1}, answered ${Math.round(ageMs)} ms ago, is not at the standby`);
  return { lagTooMuch, protectedTooLongMs };
}

/** After power took answered writes, the owner says so until an operator accepts it. */
export function judgeLossNotice(book: OwnerBook, unflushedMayBeLost: boolean): void {
  require("I11", !book.lostAnswered || unflushedMayBeLost, () =>
    `${book.name} lost answered writes with the power and does not say so`);
}

/** What an owner said of itself in one heartbeat. */
export interface HeardClaim {
  readonly answered: number;
  readonly dataBytes: number;
}

export const heardNothing: HeardClaim = { answered: 0, dataBytes: 0 };

/** A heartbeat that leaves tells no less than clients were answered, no more than was asked for, and its true bytes. */
export function judgeHeartbeat(book: OwnerBook, claim: HeardClaim): void {
  const { answered, dataBytes } = claim;
  const { history, answeredMax, name } = book;
  // What a scan put behind a client's newest write was answered to nobody, and need not be told.
  const least = history.newestOp(answeredMax);
  require("I4", answered >= least && answered <= history.last, () =>
    `${name} tells of ${answered} answered writes; ${least} were answered, ${history.last} journalled`);
  const bytes = history.dataBytesThrough(answered);
  require("I4", dataBytes === bytes, () =>
    `${name} tells of ${dataBytes} bytes in ${answered} writes; they carry ${bytes}`);
}

export interface StatedLoss {
  readonly since: string | null;
  readonly writesMin: number;
  readonly bytesMin: number;
}

/**
 * The loss that is stated as proven is what the heartbeats that were heard say beyond the seal. `heardHere`: by this
 * incarnation of the gateway, which cannot have forgotten any; `heardEver`: by all of them. `sealedBytes`: data of the
 * sealed writes. `wallMs`: the gateway's wall clock at the last heartbeat that it heard, and now; undefined where the
 * clock was set meanwhile or nothing was heard.
 */
export function judgeStatedLoss(
  book: OwnerBook,
  loss: StatedLoss,
  sealed: number,
  sealedBytes: number,
  heardHere: HeardClaim,
  heardEver: HeardClaim,
  wallMs: { readonly heard: number; readonly now: number } | undefined,
  wentBack: boolean,
): void {
  const { writesMin, bytesMin, since } = loss;
  // Taken back behind what it received, a standby counts what a scan put at the end of it as well.
  const truth = Math.max(0, (wentBack ? book.history.last : book.writtenMax) - sealed);
  require("I4", writesMin <= truth, () =>
    `${book.name}: a loss of at least ${writesMin} writes is stated; at most ${truth} were written beyond ${sealed}`);
  const beyond = (heard: number, end: number): number => Math.max(0, heard - end);
  const judge = (what: string, stated: number, least: number, most: number): void =>
    require("I4", stated >= least && stated <= most, () =>
      `${book.name}: a loss of at least ${stated} ${what} is stated; what was heard proves ${least} to ${most} beyond ${sealed}`);
  judge("writes", writesMin, beyond(heardHere.answered, sealed), beyond(heardEver.answered, sealed));
  judge(
    "bytes",
    bytesMin,
    beyond(heardHere.dataBytes, sealedBytes),
    beyond(heardEver.dataBytes, sealedBytes),
  );
  if (wallMs === undefined) return;
  const sinceMs = since === null ? undefined : Date.parse(since);
  require("I4", sinceMs !== undefined && sinceMs >= wallMs.heard && sinceMs <= wallMs.now, () =>
    `${book.name}: the last contact is stated as ${since}; it was at ${new Date(wallMs.heard).toISOString()}`);
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
