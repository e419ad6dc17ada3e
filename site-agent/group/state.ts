/**
 * What an agent durably knows of a group: which history it owns, by which token, and whether it may serve. One
 * document per group. Changes only at creation, adoption, fencing, after power loss, with the volume table, and by orders
 * about the group's life (docs/group-life.md), never with a write. Pure.
 */
import { isAbsolute } from "node:path";
import {
  countOf,
  fieldsOf,
  lineageOf,
  malformed,
  nameOf,
  nullOr,
  positionOf,
  textOf,
  tokenOf,
  volumesOf,
} from "../../protocol/fields.ts";
import type { StandingOrder } from "../../protocol/group-life.ts";
import { standingOrderOf } from "../../protocol/group-life.ts";
import type { Lineage, Sequence, Token } from "../../protocol/ids.ts";
import type { Stretch } from "../../protocol/stretch.ts";
import { stretchesOf } from "../../protocol/stretch.ts";
import type { TableVolume } from "../../protocol/table-volume.ts";
import { tableVolumeOf } from "../../protocol/table-volume.ts";
import type { VolumeIntent } from "./volume-intent.ts";
import { parseVolumeIntent } from "./volume-intent.ts";

/**
 * `creating` and `adopting`: files are being made; nothing was ever served, so a restart makes them anew.
 * `owner`: serves. `fenced`: a newer token exists; never serves again, keeps its tail. `retired`: ended by an order; never
 * serves again, its images hold everything that was answered.
 */
export type AgentRole = (typeof roles)[number];

const roles = ["creating", "adopting", "owner", "fenced", "retired"] as const;

/** The order that ended a group's life here, and what it left. */
export interface RetiredOwner extends StandingOrder {
  /** The end of the journal: the images hold everything up to here. */
  readonly written: Sequence;
  /** What the standby was known to hold. */
  readonly acknowledged: Sequence;
  /** What it did not have. */
  readonly loss: { readonly writes: number; readonly bytes: number };
}

/** A row as the standby has it or will have it: `wholeFrom` null while a scan still has to bring its content there. */
export interface StateVolume extends TableVolume {
  /** Absolute path of the image. */
  readonly imagePath: string;
  /** Identity of the file behind the path when it was last known to be right; null until the files are made. */
  readonly imageIdentity: string | null;
}

export interface AgentGroupState {
  readonly role: AgentRole;
  readonly lineage: Lineage;
  readonly token: Token;
  readonly volumes: readonly StateVolume[];
  /** A change of the table that may be in the journal already; null: none. */
  readonly changing: VolumeIntent | null;
  /** Where this term's journal begins: genesis, or the seal it was adopted at. */
  readonly origin: {
    readonly sequence: Sequence;
    readonly chain: string;
    readonly dataBytesTotal: number;
    readonly timeMs: number;
  };
  /** Absolute path of the folder with what adopted images held before; null: nothing is kept. */
  readonly history: string | null;
  /** Positions in these are no points of that history: a scan was bringing what the images lacked. */
  readonly between: readonly Stretch[];
  /** What the images held before the first record of this journal; a standby gets `data` by a first sync only. */
  readonly initial: "zeroes" | "data";
  /** The other site whose gateway must hold frames before they leave the journal; null: none until the way home. */
  readonly standby: string | null;
  /** Set after a power loss under `durability: flush` until an operator accepts it. */
  readonly unflushedMayBeLost: boolean;
  /** Boot of the host in which the operator accepted it: the same loss is not told twice. */
  readonly unflushedAcceptedIn: string | null;
  /** An operator's order to ship nothing (docs/group-life.md); null: none stands. */
  readonly paused: StandingOrder | null;
  /** When retired. */
  readonly retired: RetiredOwner | null;
  /** When fenced: by whom, and what was left behind. */
  readonly fenced: null | {
    readonly by: Token;
    readonly atMs: number;
    readonly written: Sequence;
    readonly acknowledged: Sequence;
    /** Data bytes of the records after `acknowledged`. */
    readonly tailBytes: number;
  };
}

/** Parses the stored document; RemoteProtocolError for anything that this version did not write. */
export function parseAgentGroupState(value: unknown): AgentGroupState {
  const state = fieldsOf(value, "group state");
  const role = roles.find((each) => each === state["role"]) ?? malformed("role");
  const retired = nullOr(state["retired"] ?? null, retiredOf);
  if ((role === "retired") !== (retired !== null)) malformed("role without its order");
  const origin = fieldsOf(state["origin"], "origin");
  return {
    role,
    lineage: lineageOf(state["lineage"]),
    token: tokenOf(state["token"]),
    volumes: volumesOf(state["volumes"], (row, entry) => {
      const imagePath = textOf(row["imagePath"], "image path");
      if (!isAbsolute(imagePath)) malformed("image path");
      return {
        ...tableVolumeOf(row, entry),
        imagePath,
        imageIdentity: nullOr(row["imageIdentity"], (text) => textOf(text, "image identity")),
      };
    }),
    changing: nullOr(state["changing"] ?? null, parseVolumeIntent),
    origin: {
      ...positionOf(origin),
      dataBytesTotal: countOf(origin["dataBytesTotal"], "origin bytes"),
      timeMs: countOf(origin["timeMs"], "origin time"),
    },
    // Documents written before there was a history do not say.
    history: nullOr(state["history"] ?? null, (path) => {
      const directory = textOf(path, "history path");
      return isAbsolute(directory) ? directory : malformed("history path");
    }),
    between: stretchesOf(state["between"], "between"),
    initial: initialOf(state["initial"]),
    standby: nullOr(state["standby"], (name) => nameOf(name, "standby")),
    unflushedMayBeLost: state["unflushedMayBeLost"] === true,
    unflushedAcceptedIn: nullOr(state["unflushedAcceptedIn"], (boot) => textOf(boot, "boot")),
    // Documents from before a group could be paused do not say.
    paused: nullOr(state["paused"] ?? null, standingOrderOf),
    retired,
    fenced: nullOr(state["fenced"], (fence) => {
      const fields = fieldsOf(fence, "fenced");
      return {
        by: tokenOf(fields["by"]),
        atMs: countOf(fields["atMs"], "fenced at"),
        written: countOf(fields["written"], "fenced written"),
        acknowledged: countOf(fields["acknowledged"], "fenced acknowledged"),
        tailBytes: countOf(fields["tailBytes"], "fenced tail bytes"),
      };
    }),
  };
}

function retiredOf(value: unknown): RetiredOwner {
  const fields = fieldsOf(value, "retired");
  const loss = fieldsOf(fields["loss"], "retired loss");
  return {
    ...standingOrderOf(fields),
    written: countOf(fields["written"], "retired written"),
    acknowledged: countOf(fields["acknowledged"], "retired acknowledged"),
    loss: {
      writes: countOf(loss["writes"], "retired loss"),
      bytes: countOf(loss["bytes"], "retired loss bytes"),
    },
  };
}

/** Absent in a document from before images with data were taken. */
function initialOf(value: unknown): AgentGroupState["initial"] {
  if (value === undefined) return "zeroes";
  return value === "zeroes" || value === "data" ? value : malformed("initial");
}
