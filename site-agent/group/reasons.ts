/** The words for what an owned group says of itself while it does not simply serve. Pure. */
import type { StandingOrder } from "../../protocol/group-life.ts";
import { pausedReason } from "../../protocol/group-life.ts";
import type { Token } from "../../protocol/ids.ts";
import type { OwnerStatus, Reason } from "../../protocol/status.ts";
import type { ShipperStatus } from "../ship/shipper.ts";
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
const holdMessages = {
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
const heldForTable: Reason = {
  code: "JOURNAL_FULL_AT_VOLUME_CHANGE",
  message:
    "the journal is full behind a change of the volume table that the standby has not taken: writes wait",
};

/** Requests wait for as long as everything is closed and opened again on a new table. */
export const changingTable: Reason = {
  code: "VOLUME_CHANGE",
  message: "the volume table changes: requests wait for a moment",
};

/** Why nothing may be put into the write order by a scan now, whatever it waits for itself; null: it may. */
export function noRoomForScan(
  paused: StandingOrder | null,
  shipping: ShipperStatus | undefined,
  hold: Reason | null,
): Reason | null {
  if (paused !== null) return pausedReason(paused);
  if (shipping?.state !== "attached") return { code: "NOT_ATTACHED", message: "no standby is attached" };
  if (!shipping.link.up) return { code: "LINK_DOWN", message: "the standby does not answer" };
  return hold;
}

/** `isForTable`: nothing may be dropped because of a change of the volume table. */
export function holdReason(code: HoldCode, isForTable: boolean): Reason {
  return code === "JOURNAL_FULL" && isForTable ? heldForTable : { code, message: holdMessages[code] };
}

/** Of a group without a history that has not heard from the other site. */
export function waitingReason(code: string, group: string): Reason {
  return {
    code,
    message: `the other site must be running and say that it does not know this group; only if it is lost for good, run: splitsite group create ${group}`,
  };
}
