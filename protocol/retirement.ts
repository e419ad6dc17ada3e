/**
 * The end of a group's life at a site: what is asked, what would be done, and what is left. Pure types, and the one rule which
 * checks stand against the order. States and tables: docs/group-life.md.
 */
import { fieldsOf } from "./fields.ts";
import type { OrderNote, OrderStatus } from "./group-life.ts";
import { orderNoteOf } from "./group-life.ts";

export interface RetireRequest extends OrderNote {
  /** Passes over the checks that allow it; what that loses is in the plan. */
  readonly force: boolean;
}

/** As it arrives; only `force: true` forces. RemoteProtocolError of `orderNoteOf`. */
export function retireRequestOf(value: unknown): RetireRequest {
  return { ...orderNoteOf(value), force: fieldsOf(value, "order")["force"] === true };
}

export interface RetireCheck {
  readonly id: string;
  readonly outcome: "pass" | "warn" | "fail";
  readonly message: string;
  /** Of one that fails: `--force` passes over it. */
  readonly forcible: boolean;
}

export interface RetirePlan {
  readonly group: string;
  readonly site: string;
  readonly part: "owner" | "standby";
  /** The end of the history that the images will hold. */
  readonly sequence: number;
  /** Owner: what the standby lacks. Standby: what was received, and is given up because the images are incomplete behind it. */
  readonly loss: { readonly writes: number; readonly bytes: number };
  readonly images: readonly RetiredImage[];
  readonly deletable: readonly string[];
  readonly steps: readonly string[];
  readonly checks: readonly RetireCheck[];
}

export interface RetiredImage {
  readonly volume: string;
  /** Absolute path: afterwards a plain, complete disk. */
  readonly path: string;
}

/** What is left of a group whose life at a site has ended. */
export interface RetiredStatus extends OrderStatus {
  /** The images hold everything up to here. */
  readonly sequence: number;
  /** As in the plan. */
  readonly loss: RetirePlan["loss"];
  readonly images: readonly RetiredImage[];
  /** What nothing needs any more once the group is out of the configuration. */
  readonly deletable: readonly string[];
}

/** The first check that forbids the order; undefined: it may be carried out. */
export function retireObstacle({ checks }: RetirePlan, force: boolean): RetireCheck | undefined {
  return checks.find(({ outcome, forcible }) => outcome === "fail" && !(force && forcible));
}

export const passed = (id: string, message: string): RetireCheck => check(id, "pass", message);
export const warned = (id: string, message: string): RetireCheck => check(id, "warn", message);
export const failed = (id: string, message: string, forcible = false): RetireCheck =>
  check(id, "fail", message, forcible);

function check(id: string, outcome: RetireCheck["outcome"], message: string, forcible = false): RetireCheck {
  return { id, outcome, message, forcible };
}
