/**
 * The JSON readers under fuzz: control messages between the sites, the durable documents, orders of the admin endpoint,
 * and the names in certificates. Nothing here has a checksum, so a mutated input may be another legal value; what is taken
 * must be whole: written and read again it is the same.
 */
import { parseSubjectAltNames } from "../../../block/nbd-tls.ts";
import { parseHeardRecord, parseStandbyDocument } from "../../../gateway/state.ts";
import {
  controlBytesMax,
  parseBatchAnswer,
  parseGroupKnowledge,
  parseHeartbeat,
  parseHeartbeatAnswer,
  parseHello,
  parseHelloAnswer,
  parseScanAnswer,
  parseScanAsk,
} from "../../../protocol/control.ts";
import { parseHandoverRecord } from "../../../protocol/handover.ts";
import { isName } from "../../../protocol/ids.ts";
import { foundingVolume } from "../../../protocol/table-volume.ts";
import { sitesInAltNames } from "../../../runtime/peer-identity.ts";
import { parseAgentGroupState } from "../../../site-agent/group/state.ts";
import { parseOverride } from "../../../site-agent/ship/admin.ts";
import { type FuzzTarget, outcomeOf, require } from "../target.ts";

const lineage = "00112233-4455-6677-8899-aabbccddeeff";
const token = { epoch: 3, owner: "primary" };
const chain = "ab".repeat(32);
const durable = { sequence: 806, chain };
const volume = { number: 0, name: "data", sizeBytes: 2 ** 30 };
const json = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value), "utf8");

/** Reads `value` as JSON again through `parse`: what was taken is what would be written. */
function requireStable<T>(value: T, parse: (body: Uint8Array) => T): void {
  const text = JSON.stringify(value);
  require(JSON.stringify(parse(Buffer.from(text))) === text, "a value that reads back otherwise");
}

const messages: readonly (readonly [string, (body: Uint8Array) => object])[] = [
  ["hello", parseHello],
  ["hello-answer", parseHelloAnswer],
  ["batch-answer", parseBatchAnswer],
  ["heartbeat", parseHeartbeat],
  ["heartbeat-answer", parseHeartbeatAnswer],
  ["knowledge", parseGroupKnowledge],
  ["scan-ask", parseScanAsk],
  ["scan-answer", parseScanAnswer],
];

/** Every reader of control messages on the same bytes: which of them take it. */
export const controlTarget: FuzzTarget = {
  name: "control",
  inputBytesMax: controlBytesMax + 1024,
  seeds: () =>
    [
      { lineage, token, volumes: [volume], durable, genesis: chain, create: true },
      {
        lineage,
        token,
        volumes: [volume],
        founding: [volume],
        wanted: [volume],
        durable,
        genesis: chain,
        create: false,
      },
      { kind: "attached", durable, applied: 800, token, lacks: "unknown" },
      { kind: "attached", durable, applied: 800, token, wanted: { code: "VOLUME_SIZE", message: "text" } },
      { lineage, token, after: 812 },
      { kind: "findings", since: 3, through: 9, differing: [{ sequence: 7, bits: "01" }], more: false },
      { kind: "unknown" },
      { kind: "superseded", token },
      { kind: "conflict", token },
      { kind: "diverged", lineage, durable },
      { kind: "refused", code: "INTAKE_DAMAGED", message: "text" },
      { kind: "acknowledged", durable: 9, applied: 8 },
      { kind: "wanted", sequence: 10, applied: 8 },
      { kind: "busy", code: "INTAKE_FULL", message: "text", retryAfterMs: 100 },
      { lineage, token, answered: 812, dataBytesTotal: 4096, wallMs: 1 },
      { kind: "alive", durable: 9, applied: 8, stopped: null },
      { known: true, lineage, token },
      { known: false, lineage: null, token: null },
    ].map(json),
  run(input) {
    const taken: string[] = [];
    for (const [name, parse] of messages) {
      const outcome = outcomeOf(() => {
        requireStable(parse(input), parse);
        return name;
      });
      require(outcome === name || outcome === "MALFORMED", outcome);
      if (outcome === name) taken.push(name);
    }
    return taken.length === 0 ? "MALFORMED" : taken.join("+");
  },
};

const documents: readonly (readonly [string, (value: unknown) => unknown])[] = [
  ["agent-state", parseAgentGroupState],
  ["hand-over", parseHandoverRecord],
  ["standby", parseStandbyDocument],
  ["heard", parseHeardRecord],
];

/** The documents inside their envelope: any JSON value at all. */
export const documentsTarget: FuzzTarget = {
  name: "documents",
  inputBytesMax: 64 * 1024,
  seeds: () => {
    const volumes = [{ ...volume, imagePath: "/srv/data.img" }];
    const rows = volumes.map((row) => ({ ...row, ...foundingVolume(row) }));
    const late = { ...rows[0]!, number: 7, name: "late", foundingBytes: null, changedAt: 5 };
    const heard = { atMs: 1, answered: 2, dataBytesTotal: 3 };
    const seal = { sequence: 7, chain, dataBytesTotal: 9, timeMs: 8 };
    const failover = { progress: "sealed", previous: token, reason: "fire", startedAtMs: 5, heard, seal };
    const state = {
      role: "owner",
      lineage,
      token,
      volumes: rows.map((row) => ({ ...row, imageIdentity: "8:1:77" })),
      changing: null,
      origin: { sequence: 0, chain, dataBytesTotal: 0, timeMs: 0 },
      standby: "dr",
      unflushedMayBeLost: false,
      history: null,
      between: [],
      initial: "zeroes",
      unflushedAcceptedIn: null,
      paused: null,
      retired: null,
      fenced: null,
    };
    const order = { by: "carol", reason: "gone", atMs: 7 };
    const loss = { writes: 2, bytes: 8192 };
    const fenced = { by: token, atMs: 1, written: 2, acknowledged: 1 };
    const standby = { version: 1, group: "erp", lineage, token, genesis: chain, volumes, phase: "standing" };
    const sealed = { sealed: 9, chain, dataBytesTotal: 1, pointTimeMs: 2 };
    const handover = { group: "erp", lineage, token, ...sealed, volumes: rows, leftOut: [] };
    return [
      state,
      { ...state, history: "/data/history", between: [{ since: 3, until: 9 }] },
      { ...state, role: "fenced", standby: null, unflushedAcceptedIn: "boot", fenced },
      { ...handover, history: null, between: [] },
      {
        ...handover,
        volumes: [...rows, { ...late, wholeFrom: 5 }],
        leftOut: [{ number: 8, name: "gone", sizeBytes: 512 }],
        history: "/data/history",
        between: [{ since: 0, until: 4 }],
      },
      { ...standby, volumes: [...rows, { ...late, wholeFrom: null, syncBehind: 9 }], failover: null },
      { ...standby, failover },
      { ...standby, failover: { ...failover, progress: "fenced", heard: null, seal: null } },
      {
        ...standby,
        failover: null,
        incomplete: { purpose: "first-sync", since: 0, until: 9, scan: 3, seen: 9, holds: "empty" },
      },
      {
        ...standby,
        failover: null,
        incomplete: { purpose: "resync", since: 5, until: null, scan: null, seen: 7, holds: "unknown" },
      },
      heard,
      { ...state, paused: order },
      { ...state, role: "retired", retired: { ...order, written: 9, acknowledged: 7, loss } },
      { ...standby, failover: null, retired: { ...order, seal, loss } },
    ].map(json);
  },
  run(input) {
    let value: unknown;
    try {
      value = JSON.parse(Buffer.from(input).toString("utf8"));
    } catch (error) {
      if (error instanceof SyntaxError) return "NOT_JSON";
      throw error;
    }
    const taken: string[] = [];
    for (const [name, parse] of documents) {
      try {
        requireStable(parse(value), (body) => parse(JSON.parse(Buffer.from(body).toString("utf8"))));
        taken.push(name);
      } catch (error) {
        // The gateway's two readers throw TypeError; whoever reads the file turns any of them into DOCUMENT_DAMAGED.
        if (error instanceof TypeError && (name === "standby" || name === "heard")) continue;
        outcomeOf(() => {
          throw error;
        });
      }
    }
    return taken.length === 0 ? "MALFORMED" : taken.join("+");
  },
};

export const overrideTarget: FuzzTarget = {
  name: "throttle-order",
  inputBytesMax: 4096,
  seeds: () =>
    [
      { limitBytesPerSecond: 125_000, durationMs: 60_000 },
      { limitBytesPerSecond: null, durationMs: null },
    ].map(json),
  run: (input) =>
    outcomeOf(() => {
      const order = parseOverride(input);
      for (const value of [order.limitBytesPerSecond, order.durationMs])
        require(value === null || (value >= 1 && value <= Number.MAX_SAFE_INTEGER), `order ${value}`);
      requireStable(order, parseOverride);
      return "ok";
    }),
};

/** Text of a certificate's names, as Node prints them; both readers of it. */
export const certificateNamesTarget: FuzzTarget = {
  name: "certificate-names",
  inputBytesMax: 4096,
  seeds: () =>
    [
      "URI:splitsite:site:dr",
      "DNS:localhost, IP Address:127.0.0.1, URI:splitsite:site:primary",
      'DNS:"a, URI:splitsite:site:dr", URI:splitsite:site:b',
      'othername:"x\\", DNS:y", email:a@b, DirName:/CN=z',
    ].map((text) => Buffer.from(text)),
  run(input) {
    const text = Buffer.from(input).toString("latin1");
    const sites = sitesInAltNames(text);
    const names = parseSubjectAltNames(text);
    require(sites.join("").length <= text.length &&
      names.join("").length <= text.length, "names from nowhere");
    // A name that no site can have is dropped by whoever compares it.
    for (const site of sites)
      require(!isName(site) || text.includes(`URI:splitsite:site:${site}`), "a site that is not there");
    return `${Math.min(sites.length, 3)} sites, ${Math.min(names.length, 3)} names`;
  },
};
