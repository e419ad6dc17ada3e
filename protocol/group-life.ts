/**
 * Pause and end of a group's life at a site: the orders, what is remembered of them, and how both are read. Pure. Who gave
 * an order, and why, is what he said of himself: told to people, never a ground for a decision.
 */
import { countOf, fieldsOf, malformed, textOf } from "./fields.ts";
import type { Reason } from "./status.ts";

/** Who gave an order, and why. */
export interface OrderNote {
  /** At most `orderByMax` characters. */
  readonly by: string;
  /** At most `orderReasonMax` characters; may be empty. */
  readonly reason: string;
}

/** The order as it is remembered. */
export interface StandingOrder extends OrderNote {
  /** Wall clock of the site that took it: a label. */
  readonly atMs: number;
}

/** The same in a status document. */
export interface OrderStatus extends OrderNote {
  /** RFC 3339. */
  readonly since: string;
}

/** Longest texts of an order, characters: it goes with every heartbeat, once a second. */
export const orderByMax = 128;
export const orderReasonMax = 1_000;

/** What would move a terminal's cursor becomes a space, and what is too long is cut. */
function plain(text: string, lengthMax: number): string {
  return text.slice(0, lengthMax).replaceAll(/./gsu, (character) => (isControl(character) ? " " : character));
}

function isControl(character: string): boolean {
  const code = character.codePointAt(0) ?? 0;
  return code < 0x20 || (code >= 0x7f && code < 0xa0);
}

/** Of an order as it arrives: both texts may be missing. RemoteProtocolError for anything but texts. */
export function orderNoteOf(value: unknown): OrderNote {
  const { by, reason } = fieldsOf(value, "order");
  return {
    by: plain(textOf(by ?? "", "order by"), orderByMax),
    reason: plain(textOf(reason ?? "", "order reason"), orderReasonMax),
  };
}

/** `note` as it is remembered when it is taken at `wallMs`. */
export function standingOrder({ by, reason }: OrderNote, wallMs: number): StandingOrder {
  return { by, reason, atMs: Math.max(0, Math.floor(wallMs)) };
}

/** Of an order that was written down, or is told by the other site: exactly as `orderNoteOf` left it. */
export function standingOrderOf(value: unknown): StandingOrder {
  const { by, reason, atMs } = fieldsOf(value, "order");
  return {
    by: plainOf(by, "order by", orderByMax),
    reason: plainOf(reason, "order reason", orderReasonMax),
    atMs: countOf(atMs, "order time"),
  };
}

function plainOf(value: unknown, what: string, lengthMax: number): string {
  const text = textOf(value, what);
  return text === plain(text, lengthMax) ? text : malformed(what);
}

export function orderStatus(order: StandingOrder | null): OrderStatus | null {
  if (order === null) return null;
  return { since: timeText(order), by: order.by, reason: order.reason };
}

/** "by carol at 2026-03-02T10:14:06.000Z: moving the rack" */
export function orderText(order: StandingOrder): string {
  const by = order.by === "" ? "" : `by ${order.by} `;
  return `${by}at ${timeText(order)}${order.reason === "" ? "" : `: ${order.reason}`}`;
}

/** What both sites say of a group that is paused. */
export function pausedReason(pause: StandingOrder): Reason {
  return {
    code: "PAUSED",
    message: `replication was paused ${orderText(pause)}; nothing is shipped until: group resume`,
  };
}

function timeText({ atMs }: StandingOrder): string {
  return new Date(atMs).toISOString();
}
