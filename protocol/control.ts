/**
 * Control messages between an agent and the gateway of the other site: JSON bodies of the WAN's HTTP routes.
 * Pure. One place for routes, shapes and their parsing; unknown fields are ignored, wrong ones refused.
 */
import type { JsonFields } from "./fields.ts";
import {
  chainOf,
  countOf,
  fieldsOf,
  lineageOf,
  malformed,
  nullOr,
  parseFields,
  positionOf,
  textOf,
  tokenOf,
  volumesMax,
  volumesOf,
} from "./fields.ts";
import type { StandingOrder } from "./group-life.ts";
import { standingOrderOf } from "./group-life.ts";
import type { Lineage, Sequence, Token, VolumeEntry, VolumeNumber } from "./ids.ts";

/** Routes of the gateway's WAN listener; `:group` is a group name. */
export const wanRoutes = {
  /** GET: GroupKnowledge. */
  group: (group: string) => `/v1/groups/${group}`,
  /** POST Hello: HelloAnswer. */
  hello: (group: string) => `/v1/groups/${group}/hello`,
  /** POST batch bytes: BatchAnswer. */
  batches: (group: string) => `/v1/groups/${group}/batches`,
  /** POST Heartbeat: HeartbeatAnswer. */
  heartbeat: (group: string) => `/v1/groups/${group}/heartbeat`,
  /** POST ScanAsk: ScanAnswer. */
  scan: (group: string) => `/v1/groups/${group}/scan`,
  /** POST StandbyPinAsk: StandbyPinAnswer (standby-pin.ts). */
  standbyPin: (group: string) => `/v1/groups/${group}/pin`,
  /** POST HistoryAsk: HistoryCheckState, or a refusal (history-check.ts). */
  historyCheck: (group: string) => `/v1/groups/${group}/history-check`,
} as const;

/**
 * Every control body and answer, either way, is at most this long. The longest is a hello with three tables of 256
 * volumes, some 120 characters each at most: 92 KiB.
 */
export const controlBytesMax = 128 * 1024;
/** The agent sends a heartbeat this often, ms; promise 8 and the 10 s bound on a silent peer rest on it. */
export const heartbeatIntervalMs = 1_000;
/** No sign of life (answered heartbeat, answered batch, body progress) for this long: the link is down, ms. */
export const peerSilenceMs = 8_000;

/** Position as JSON: chain in lower-case hex. */
export interface PositionJson {
  readonly sequence: Sequence;
  readonly chain: string;
}

/** What a site knows of a group, asked by an agent that has no state: it serves nothing if `known`. */
export interface GroupKnowledge {
  readonly known: boolean;
  readonly lineage: Lineage | null;
  readonly token: Token | null;
}

export interface Hello {
  readonly lineage: Lineage;
  readonly token: Token;
  /** The sender's table at `durable`. A standby's may be behind it, with the changes still to come; never ahead. */
  readonly volumes: readonly VolumeEntry[];
  /** The table that the history began with: with the lineage it gives `genesis`. Absent: `volumes`. */
  readonly founding?: readonly VolumeEntry[];
  /** The whole table that the sender would like to change to; absent: none. Asks whether the standby is ready for it. */
  readonly wanted?: readonly VolumeEntry[];
  /** Newest durable position of the sender. */
  readonly durable: PositionJson;
  /** Data bytes of the sender's history before sequence 1 of its log; only meaningful with `create`. */
  readonly genesis: string;
  /** The sender still holds every record since genesis, so an unknown standby may be created from nothing. */
  readonly create: boolean;
  /** The sender's images held data before its first record: a standby needs a first sync. Absent: they were zeroes. */
  readonly initial?: "data";
}

export type StandbyLack = "empty" | "unknown" | "resync";

/** `ready`, or what stands against a change of the table; `code` is stable. */
export type WantedAnswer = "ready" | { readonly code: string; readonly message: string };

/** `at` is the gateway's durable position: the sender must find the same chain value at that sequence. */
export type HelloAnswer =
  | {
      readonly kind: "attached";
      readonly durable: PositionJson;
      readonly applied: Sequence;
      readonly token: Token;
      /**
       * The standby lacks content and needs a scan. `empty`: its images were made for this history and hold only what it
       * brought. `unknown`: they may hold anything. `resync`: they lack what gaps stand for. Absent: it lacks nothing.
       */
      readonly lacks?: StandbyLack;
      /** Numbers of volumes whose content is not whole here once everything received is applied; absent: none. */
      readonly partial?: readonly VolumeNumber[];
      /** To `Hello.wanted`: whether this standby could follow such a change now. Absent: not asked, or not understood. */
      readonly wanted?: WantedAnswer;
    }
  | { readonly kind: "unknown" }
  | { readonly kind: "superseded"; readonly token: Token }
  | { readonly kind: "conflict"; readonly token: Token }
  | { readonly kind: "diverged"; readonly lineage: Lineage; readonly durable: PositionJson }
  | Refusal;

/** A state that must be mended first; `code` is stable. */
export interface Refusal {
  readonly kind: "refused";
  readonly code: string;
  readonly message: string;
}

/** `wanted` is the next sequence the gateway will take: after a gap, a restart, or for a duplicate. */
export type BatchAnswer =
  | { readonly kind: "acknowledged"; readonly durable: Sequence; readonly applied: Sequence }
  | { readonly kind: "wanted"; readonly sequence: Sequence; readonly applied: Sequence }
  | { readonly kind: "superseded"; readonly token: Token }
  | { readonly kind: "conflict"; readonly token: Token }
  | { readonly kind: "diverged"; readonly lineage: Lineage; readonly durable: PositionJson }
  | { readonly kind: "busy"; readonly code: string; readonly message: string; readonly retryAfterMs: number }
  | Refusal;

/** What is answered to clients, sent or not: the gateway's ground for stating loss. */
export interface Heartbeat {
  readonly lineage: Lineage;
  readonly token: Token;
  readonly answered: Sequence;
  readonly dataBytesTotal: number;
  /** Wall clock of the sender, a label. */
  readonly wallMs: number;
  /** Replication is paused by an order at the sender's site. Absent: it is not. */
  readonly paused?: StandingOrder;
}

export type HeartbeatAnswer =
  | {
      readonly kind: "alive";
      readonly durable: Sequence;
      readonly applied: Sequence;
      readonly stopped: string | null;
    }
  | { readonly kind: "unknown" }
  | { readonly kind: "superseded"; readonly token: Token }
  | { readonly kind: "conflict"; readonly token: Token }
  | Refusal;

/** Asks what a scan's digests have shown, for records behind `after`. */
export interface ScanAsk {
  readonly lineage: Lineage;
  readonly token: Token;
  readonly after: Sequence;
}

/** A digest record with a difference: a bit for each chunk or leaf, hex, lowest bit of the first byte first. */
export interface ScanDifference {
  readonly sequence: Sequence;
  readonly bits: string;
  /** Of a record of leaves: those that the standby's disk could not read, in the same form. Absent: all could be. */
  readonly unreadable?: string;
}

/**
 * Digests behind `since` and up to `through` were compared; those without a row here agreed. Rows ascend and are as many
 * as an answer holds: with `more`, ask again behind the last one, and believe nothing behind it yet.
 */
export type ScanAnswer =
  | {
      readonly kind: "findings";
      readonly since: Sequence;
      readonly through: Sequence;
      readonly differing: readonly ScanDifference[];
      readonly more: boolean;
    }
  | { readonly kind: "unknown" }
  | { readonly kind: "superseded"; readonly token: Token }
  | { readonly kind: "conflict"; readonly token: Token }
  | Refusal;

/** Hex of all bits in one ScanAnswer: with a row's other text it stays below `controlBytesMax`. */
export const scanBitsHexMax = 24 * 1024;
/** Rows in one ScanAnswer: some 45 characters each besides their bits. */
export const scanDifferencesMax = 512;

function refusal(fields: JsonFields): Refusal {
  return {
    kind: "refused",
    code: textOf(fields["code"], "code"),
    message: textOf(fields["message"], "message"),
  };
}

export function parseHello(body: Uint8Array): Hello {
  const fields = parseFields(body, controlBytesMax);
  return {
    lineage: lineageOf(fields["lineage"]),
    token: tokenOf(fields["token"]),
    volumes: tableOf(fields["volumes"]),
    ...(fields["founding"] === undefined ? {} : { founding: tableOf(fields["founding"]) }),
    ...(fields["wanted"] === undefined ? {} : { wanted: tableOf(fields["wanted"]) }),
    durable: positionOf(fields["durable"]),
    genesis: chainOf(fields["genesis"]),
    create: fields["create"] === true,
    ...initialOf(fields["initial"]),
  };
}

function tableOf(value: unknown): VolumeEntry[] {
  return volumesOf(value, (_, entry) => entry);
}

function initialOf(value: unknown): { initial?: "data" } {
  if (value === undefined) return {};
  return value === "data" ? { initial: value } : malformed("initial");
}

export function parseHeartbeat(body: Uint8Array): Heartbeat {
  const fields = parseFields(body, controlBytesMax);
  return {
    lineage: lineageOf(fields["lineage"]),
    token: tokenOf(fields["token"]),
    answered: countOf(fields["answered"], "answered"),
    dataBytesTotal: countOf(fields["dataBytesTotal"], "dataBytesTotal"),
    wallMs: countOf(fields["wallMs"], "wallMs"),
    ...(fields["paused"] === undefined ? {} : { paused: standingOrderOf(fields["paused"]) }),
  };
}

export function parseGroupKnowledge(body: Uint8Array): GroupKnowledge {
  const fields = parseFields(body, controlBytesMax);
  if (typeof fields["known"] !== "boolean") malformed("known");
  return {
    known: fields["known"],
    lineage: nullOr(fields["lineage"], lineageOf),
    token: nullOr(fields["token"], tokenOf),
  };
}

/** The outcomes that more than one answer shares; undefined when `kind` is none of them. */
function parseShared(fields: JsonFields) {
  switch (fields["kind"]) {
    case "superseded":
      return { kind: "superseded", token: tokenOf(fields["token"]) } as const;
    case "conflict":
      return { kind: "conflict", token: tokenOf(fields["token"]) } as const;
    case "refused":
      return refusal(fields);
    default:
      return undefined;
  }
}

function parseDiverged(fields: JsonFields) {
  return {
    kind: "diverged",
    lineage: lineageOf(fields["lineage"]),
    durable: positionOf(fields["durable"]),
  } as const;
}

export function parseHelloAnswer(body: Uint8Array): HelloAnswer {
  const fields = parseFields(body, controlBytesMax);
  const shared = parseShared(fields);
  if (shared !== undefined) return shared;
  switch (fields["kind"]) {
    case "unknown":
      return { kind: "unknown" };
    case "diverged":
      return parseDiverged(fields);
    case "attached":
      return {
        kind: "attached",
        durable: positionOf(fields["durable"]),
        applied: countOf(fields["applied"], "applied"),
        token: tokenOf(fields["token"]),
        ...lackOf(fields["lacks"]),
        ...(fields["partial"] === undefined ? {} : { partial: numbersOf(fields["partial"]) }),
        ...(fields["wanted"] === undefined ? {} : { wanted: wantedOf(fields["wanted"]) }),
      };
    default:
      return malformed("kind");
  }
}

function numbersOf(value: unknown): VolumeNumber[] {
  if (!Array.isArray(value) || value.length === 0 || value.length > volumesMax) return malformed("partial");
  return value.map((number: unknown) => {
    const found = countOf(number, "volume number");
    return found > 0xffff ? malformed("volume number") : found;
  });
}

function wantedOf(value: unknown): WantedAnswer {
  if (value === "ready") return value;
  const fields = fieldsOf(value, "wanted");
  return { code: textOf(fields["code"], "code"), message: textOf(fields["message"], "message") };
}

function lackOf(value: unknown): { lacks?: StandbyLack } {
  if (value === undefined) return {};
  const isKnown = value === "empty" || value === "unknown" || value === "resync";
  return isKnown ? { lacks: value } : malformed("lacks");
}

export function parseScanAsk(body: Uint8Array): ScanAsk {
  const fields = parseFields(body, controlBytesMax);
  return {
    lineage: lineageOf(fields["lineage"]),
    token: tokenOf(fields["token"]),
    after: countOf(fields["after"], "after"),
  };
}

export function parseScanAnswer(body: Uint8Array): ScanAnswer {
  const fields = parseFields(body, controlBytesMax);
  const shared = parseShared(fields);
  if (shared !== undefined) return shared;
  switch (fields["kind"]) {
    case "unknown":
      return { kind: "unknown" };
    case "findings": {
      const rows = fields["differing"];
      if (!Array.isArray(rows) || rows.length > scanDifferencesMax) return malformed("differing");
      const differing = rows.map(differenceOf);
      if (differing.some(({ sequence }, index) => index > 0 && sequence <= differing[index - 1]!.sequence)) {
        return malformed("order of differing");
      }
      if (typeof fields["more"] !== "boolean") return malformed("more");
      return {
        kind: "findings",
        since: countOf(fields["since"], "since"),
        through: countOf(fields["through"], "through"),
        differing,
        more: fields["more"],
      };
    }
    default:
      return malformed("kind");
  }
}

function differenceOf(value: unknown): ScanDifference {
  const { sequence, bits, unreadable } = fieldsOf(value, "difference");
  return {
    sequence: countOf(sequence, "sequence"),
    bits: bitsOf(bits),
    ...(unreadable === undefined ? {} : { unreadable: bitsOf(unreadable) }),
  };
}

function bitsOf(value: unknown): string {
  const text = textOf(value, "bits");
  return /^([0-9a-f]{2})+$/.test(text) ? text : malformed("bits");
}

export function parseBatchAnswer(body: Uint8Array): BatchAnswer {
  const fields = parseFields(body, controlBytesMax);
  const shared = parseShared(fields);
  if (shared !== undefined) return shared;
  switch (fields["kind"]) {
    case "diverged":
      return parseDiverged(fields);
    case "acknowledged":
      return {
        kind: "acknowledged",
        durable: countOf(fields["durable"], "durable"),
        applied: countOf(fields["applied"], "applied"),
      };
    case "wanted":
      return {
        kind: "wanted",
        sequence: countOf(fields["sequence"], "sequence"),
        applied: countOf(fields["applied"], "applied"),
      };
    case "busy":
      return {
        kind: "busy",
        code: textOf(fields["code"], "code"),
        message: textOf(fields["message"], "message"),
        retryAfterMs: countOf(fields["retryAfterMs"], "retryAfterMs"),
      };
    default:
      return malformed("kind");
  }
}

export function parseHeartbeatAnswer(body: Uint8Array): HeartbeatAnswer {
  const fields = parseFields(body, controlBytesMax);
  const shared = parseShared(fields);
  if (shared !== undefined) return shared;
  switch (fields["kind"]) {
    case "unknown":
      return { kind: "unknown" };
    case "alive":
      return {
        kind: "alive",
        durable: countOf(fields["durable"], "durable"),
        applied: countOf(fields["applied"], "applied"),
        stopped: nullOr(fields["stopped"], (value) => textOf(value, "stopped")),
      };
    default:
      return malformed("kind");
  }
}
