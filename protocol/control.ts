/**
 * Control messages between an agent and the gateway of the other site: JSON bodies of the WAN's HTTP routes.
 * Pure. One place for routes, shapes and their parsing; unknown fields are ignored, wrong ones refused.
 */
import type { Lineage, Sequence, Token, VolumeEntry } from "./ids.ts";
import { isName, lineageFromText } from "./ids.ts";
import { RemoteProtocolError } from "./remote-error.ts";

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
} as const;

/** Every control body and answer, either way, is at most this long. */
export const controlBytesMax = 64 * 1024;
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
  readonly volumes: readonly VolumeEntry[];
  /** Newest durable position of the sender. */
  readonly durable: PositionJson;
  /** Data bytes of the sender's history before sequence 1 of its log; only meaningful with `create`. */
  readonly genesis: string;
  /** The sender still holds every record since genesis, so an unknown standby may be created from nothing. */
  readonly create: boolean;
}

/** `at` is the gateway's durable position: the sender must find the same chain value at that sequence. */
export type HelloAnswer =
  | { readonly kind: "attached"; readonly durable: PositionJson; readonly applied: Sequence; readonly token: Token }
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
}

export type HeartbeatAnswer =
  | { readonly kind: "alive"; readonly durable: Sequence; readonly applied: Sequence; readonly stopped: string | null }
  | { readonly kind: "unknown" }
  | { readonly kind: "superseded"; readonly token: Token }
  | { readonly kind: "conflict"; readonly token: Token }
  | Refusal;

type Json = Readonly<Record<string, unknown>>;

function bad(what: string): never {
  throw new RemoteProtocolError("CONTROL_MALFORMED", `control message: ${what}`);
}

function parseObject(body: Uint8Array): Json {
  if (body.byteLength > controlBytesMax) bad("too long");
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString("utf8"));
  } catch {
    bad("not JSON");
  }
  return object(value);
}

function object(value: unknown): Json {
  if (typeof value !== "object" || value === null || Array.isArray(value)) bad("not an object");
  return value as Json;
}

function count(value: unknown, what: string): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) bad(what);
  return value;
}

function text(value: unknown, what: string): string {
  if (typeof value !== "string" || value.length > 4096) bad(what);
  return value;
}

function lineage(value: unknown): Lineage {
  const id = text(value, "lineage");
  if (lineageFromText(id) === undefined) bad("lineage");
  return id;
}

function chain(value: unknown): string {
  const hex = text(value, "chain");
  if (!/^[0-9a-f]{64}$/.test(hex)) bad("chain");
  return hex;
}

function token(value: unknown): Token {
  const fields = object(value);
  const owner = text(fields["owner"], "token owner");
  const epoch = count(fields["epoch"], "token epoch");
  if (!isName(owner) || epoch < 1) bad("token");
  return { epoch, owner };
}

function position(value: unknown): PositionJson {
  const fields = object(value);
  return { sequence: count(fields["sequence"], "sequence"), chain: chain(fields["chain"]) };
}

function volumes(value: unknown): VolumeEntry[] {
  if (!Array.isArray(value) || value.length === 0 || value.length > 256) bad("volumes");
  return value.map((row: unknown) => {
    const fields = object(row);
    const name = text(fields["name"], "volume name");
    const number = count(fields["number"], "volume number");
    if (!isName(name) || number > 0xffff) bad("volume");
    return { number, name, sizeBytes: count(fields["sizeBytes"], "volume size") };
  });
}

function refusal(fields: Json): Refusal {
  return { kind: "refused", code: text(fields["code"], "code"), message: text(fields["message"], "message") };
}

export function parseHello(body: Uint8Array): Hello {
  const fields = parseObject(body);
  return {
    lineage: lineage(fields["lineage"]),
    token: token(fields["token"]),
    volumes: volumes(fields["volumes"]),
    durable: position(fields["durable"]),
    genesis: chain(fields["genesis"]),
    create: fields["create"] === true,
  };
}

export function parseHeartbeat(body: Uint8Array): Heartbeat {
  const fields = parseObject(body);
  return {
    lineage: lineage(fields["lineage"]),
    token: token(fields["token"]),
    answered: count(fields["answered"], "answered"),
    dataBytesTotal: count(fields["dataBytesTotal"], "dataBytesTotal"),
    wallMs: count(fields["wallMs"], "wallMs"),
  };
}

export function parseGroupKnowledge(body: Uint8Array): GroupKnowledge {
  const fields = parseObject(body);
  if (typeof fields["known"] !== "boolean") bad("known");
  return {
    known: fields["known"],
    lineage: fields["lineage"] === null ? null : lineage(fields["lineage"]),
    token: fields["token"] === null ? null : token(fields["token"]),
  };
}

/** The outcomes that more than one answer shares; undefined when `kind` is none of them. */
function parseShared(fields: Json) {
  switch (fields["kind"]) {
    case "superseded":
      return { kind: "superseded", token: token(fields["token"]) } as const;
    case "conflict":
      return { kind: "conflict", token: token(fields["token"]) } as const;
    case "refused":
      return refusal(fields);
    default:
      return undefined;
  }
}

function parseDiverged(fields: Json) {
  return { kind: "diverged", lineage: lineage(fields["lineage"]), durable: position(fields["durable"]) } as const;
}

export function parseHelloAnswer(body: Uint8Array): HelloAnswer {
  const fields = parseObject(body);
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
        durable: position(fields["durable"]),
        applied: count(fields["applied"], "applied"),
        token: token(fields["token"]),
      };
    default:
      return bad("kind");
  }
}

export function parseBatchAnswer(body: Uint8Array): BatchAnswer {
  const fields = parseObject(body);
  const shared = parseShared(fields);
  if (shared !== undefined) return shared;
  switch (fields["kind"]) {
    case "diverged":
      return parseDiverged(fields);
    case "acknowledged":
      return { kind: "acknowledged", durable: count(fields["durable"], "durable"), applied: count(fields["applied"], "applied") };
    case "wanted":
      return { kind: "wanted", sequence: count(fields["sequence"], "sequence"), applied: count(fields["applied"], "applied") };
    case "busy":
      return {
        kind: "busy",
        code: text(fields["code"], "code"),
        message: text(fields["message"], "message"),
        retryAfterMs: count(fields["retryAfterMs"], "retryAfterMs"),
      };
    default:
      return bad("kind");
  }
}

export function parseHeartbeatAnswer(body: Uint8Array): HeartbeatAnswer {
  const fields = parseObject(body);
  const shared = parseShared(fields);
  if (shared !== undefined) return shared;
  switch (fields["kind"]) {
    case "unknown":
      return { kind: "unknown" };
    case "alive":
      return {
        kind: "alive",
        durable: count(fields["durable"], "durable"),
        applied: count(fields["applied"], "applied"),
        stopped: fields["stopped"] === null ? null : text(fields["stopped"], "stopped"),
      };
    default:
      return bad("kind");
  }
}
