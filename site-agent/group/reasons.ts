/** The words for what an owned group says of itself while it does not simply serve. Pure. */
import type { Token } from "../../protocol/ids.ts";
import type { OwnerStatus, Reason } from "../../protocol/status.ts";
import type { HoldCode } from "../write-path/committer.ts";

/** Of a group that has no line to the other site. */
export const noLink: OwnerStatus["link"] = {
  up: false,
  limitBytesPerSecond: null,
  wireBytes: 0,
  rawBytes: 0,
  roundTripMs: null,
  codec: null,
  lastContact: null,
};

/** Why writes wait. */
export const holdMessages = {
  JOURNAL_FULL: "the journal is full and the standby has not taken its frames: writes wait",
  JOURNAL_RESERVE: "the file system of the journal is nearly full: writes wait for space",
} as const satisfies Record<HoldCode, string>;

/** Why a group is not started. */
export const stopMessages = {
  STATE_LOST:
    "the other site knows this group but this site has no state of it: restore the data folder or fail over",
  OWNER_CONFLICT: "another site holds the same epoch: an operator must decide which history goes on",
  DIVERGED: "the other site holds another history of this group: nothing is overwritten",
} as const;

/** `by` null: it is not known who. */
export function fencedReason(by: Token | null): Reason {
  const owner = by === null ? "another site" : `site ${by.owner} (epoch ${by.epoch})`;
  return {
    code: "SUPERSEDED",
    message: `${owner} owns this group now; this copy keeps its unsent tail and serves nothing`,
  };
}

/** A full journal in which nothing may be dropped. */
export const heldForTable: Reason = {
  code: "JOURNAL_FULL_AT_VOLUME_CHANGE",
  message:
    "the journal is full behind a change of the volume table that the standby has not taken: writes wait",
};

/** Requests wait for as long as everything is closed and opened again on a new table. */
export const changingTable: Reason = {
  code: "VOLUME_CHANGE",
  message: "the volume table changes: requests wait for a moment",
};
