/**
 * A second, slow reading of the client's half of NBD, made from the specification (proto.md) and our bounds: which reply
 * each option must get, and what each request must come to. Shares no code with the product; a mistake there is not made
 * twice. Reads whole inputs; how bytes arrive is not its business.
 */
import type { NbdExportParams } from "../../../protocol/nbd/export-params.ts";
import type { NbdTlsMode } from "../../../protocol/nbd/handshake.ts";
import type { NbdSessionLimits } from "../../../protocol/nbd/limits.ts";
import { OPT, REP } from "../../protocol/nbd/wire.ts";

export interface ExpectedHandshake {
  /** Option and type of each reply that ends an option; information replies before them are not named. */
  readonly replies: readonly (readonly [number, number])[];
  /** Code of the end; undefined: the handshake goes on or transmission has begun. */
  readonly end?: string;
  /** Where transmission begins. */
  readonly transmissionAt?: number;
  readonly structured: boolean;
  readonly blockStatus: boolean;
}

interface World {
  readonly exports: readonly string[];
  readonly params: NbdExportParams;
  readonly limits: NbdSessionLimits;
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** A string of the specification, or undefined. */
function nameIn(bytes: Uint8Array): string | undefined {
  if (bytes.length > 4096 || bytes.includes(0)) return undefined;
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}

interface Asked {
  readonly name: string;
  readonly queries: readonly string[];
}

/** Data of INFO and GO (`meta` false: numbers of two bytes) or of the metadata options (strings), whole or undefined. */
function asked(data: Buffer, meta: boolean): Asked | undefined {
  if (data.length < 4) return undefined;
  const nameEnd = 4 + data.readUInt32BE(0);
  if (nameEnd > data.length) return undefined;
  const name = nameIn(data.subarray(4, nameEnd));
  if (name === undefined) return undefined;
  if (!meta) {
    if (nameEnd + 2 > data.length) return undefined;
    return nameEnd + 2 + 2 * data.readUInt16BE(nameEnd) === data.length ? { name, queries: [] } : undefined;
  }
  if (nameEnd + 4 > data.length) return undefined;
  const count = data.readUInt32BE(nameEnd);
  const queries: string[] = [];
  let at = nameEnd + 4;
  while (queries.length < count) {
    if (at + 4 > data.length) return undefined;
    const end = at + 4 + data.readUInt32BE(at);
    if (end > data.length) return undefined;
    const query = nameIn(data.subarray(at + 4, end));
    if (query === undefined) return undefined;
    queries.push(query);
    at = end;
  }
  return at === data.length ? { name, queries } : undefined;
}

/** What the options of `input`, received at once, must be answered. Not for inputs that reach STARTTLS in `required`. */
export function expectHandshake(input: Buffer, tls: NbdTlsMode, world: World): ExpectedHandshake {
  const replies: [number, number][] = [];
  let structured = false;
  let metaExport: string | undefined;
  const outcome = (rest: Partial<ExpectedHandshake>): ExpectedHandshake => ({
    replies,
    structured,
    blockStatus: false,
    ...rest,
  });
  const begin = (name: string, transmissionAt: number): ExpectedHandshake =>
    outcome({ transmissionAt, blockStatus: structured && world.params.extents && metaExport === name });
  let at = 0;
  let fixed = true;
  if (tls !== "established") {
    if (input.length < 4) return outcome({});
    const flags = input.readUInt32BE(0);
    if (flags > 3) return outcome({ end: "UNKNOWN_CLIENT_FLAG" });
    fixed = (flags & 1) === 1;
    at = 4;
  }
  let allowed = world.limits.optionsMax;
  let listed = false;
  for (let options = 1; ; options += 1) {
    if (input.length - at >= 8 && input.toString("latin1", at, at + 8) !== "IHAVEOPT")
      return outcome({ end: "BAD_OPTION_MAGIC" });
    if (input.length - at < 16) return outcome({});
    const option = input.readUInt32BE(at + 8);
    const length = input.readUInt32BE(at + 12);
    if (options > allowed) return outcome({ end: "TOO_MANY_OPTIONS" });
    if (option === OPT.EXPORT_NAME && tls === "required") return outcome({ end: "TLS_REQUIRED" });
    if (option === OPT.EXPORT_NAME && length > 4096) return outcome({ end: "NAME_TOO_LONG" });
    if (length > world.limits.optionDrainBytesMax) return outcome({ end: "OPTION_TOO_LONG" });
    if (input.length - at - 16 < length) return outcome({});
    const data = input.subarray(at + 16, at + 16 + length);
    at += 16 + length;
    const reply = (type: number): void => {
      replies.push([option, type]);
    };
    if (option === OPT.EXPORT_NAME) {
      const name = nameIn(data);
      if (name === undefined) return outcome({ end: "NAME" });
      if (!world.exports.includes(name)) return outcome({ end: "EXPORT_REFUSED" });
      return begin(name, at);
    }
    if (option === OPT.ABORT) {
      reply(REP.ACK);
      return outcome({ end: "ABORTED" });
    }
    if (!fixed) reply(REP.INVALID);
    else if (option === OPT.STARTTLS) {
      if (length > 0 || tls === "established") reply(REP.INVALID);
      else if (tls === "off") reply(REP.POLICY);
      else throw new Error("STARTTLS is not for this model");
    } else if (tls === "required") reply(REP.TLS_REQD);
    else if (option === OPT.LIST) {
      if (length === 0) {
        for (const _ of world.exports) reply(REP.SERVER);
        // The bound on options grows once, with the first list.
        if (!listed) allowed += world.limits.optionsPerListedExport * world.exports.length;
        listed = true;
      }
      reply(length === 0 ? REP.ACK : REP.INVALID);
    } else if (option === OPT.STRUCTURED) {
      structured ||= length === 0;
      reply(length === 0 ? REP.ACK : REP.INVALID);
    } else if (option === OPT.INFO || option === OPT.GO) {
      const found = asked(data, false);
      if (length > world.limits.optionBytesMax) reply(REP.TOO_BIG);
      else if (found === undefined) reply(REP.INVALID);
      else if (!world.exports.includes(found.name)) reply(REP.UNKNOWN);
      else {
        reply(REP.ACK);
        if (option === OPT.GO) return begin(found.name, at);
      }
    } else if (option === OPT.LIST_META || option === OPT.SET_META) {
      const found = asked(data, true);
      if (option === OPT.SET_META) metaExport = undefined;
      if (length > world.limits.optionBytesMax) reply(REP.TOO_BIG);
      else if (!structured || found === undefined) reply(REP.INVALID);
      else if (!world.exports.includes(found.name)) reply(REP.UNKNOWN);
      else {
        if (option === OPT.SET_META && found.queries.includes("base:allocation")) metaExport = found.name;
        reply(REP.ACK);
      }
    } else reply(REP.UNSUP);
  }
}

/** One line for each request of `input`, a last one for the end if there is one. */
export function expectRequests(
  input: Buffer,
  params: NbdExportParams,
  structured: boolean,
  blockStatus: boolean,
  limits: NbdSessionLimits,
): string[] {
  const lines: string[] = [];
  let at = 0;
  while (input.length - at >= 28) {
    const magic = input.readUInt32BE(at);
    if (magic !== 0x25609513) return [...lines, "ended BAD_REQUEST_MAGIC"];
    const flags = input.readUInt16BE(at + 4);
    const command = input.readUInt16BE(at + 6);
    const cookie = input.readBigUInt64BE(at + 8);
    const offset = input.readBigUInt64BE(at + 16);
    const length = input.readUInt32BE(at + 24);
    at += 28;
    if (command === 2) return [...lines, "ended DISCONNECT_REQUESTED"];
    const errno = errnoOf(command, flags, offset, length, params, structured, blockStatus);
    if (command === 1) {
      if (errno !== 0 && length > limits.payloadDrainBytesMax) return [...lines, "ended PAYLOAD_TOO_LONG"];
      if (input.length - at < length) return lines;
    }
    if (errno !== 0) lines.push(`rejected ${command} ${cookie} ${errno}`);
    else {
      const data = command === 1 ? input.toString("latin1", at, at + length) : "";
      lines.push(`request ${command} ${flags} ${cookie} ${offset} ${length} ${data}`);
    }
    if (command === 1) at += length;
  }
  return lines;
}

function errnoOf(
  command: number,
  flags: number,
  offset: bigint,
  length: number,
  params: NbdExportParams,
  structured: boolean,
  blockStatus: boolean,
): number {
  if (command > 7) return 22;
  const legal =
    (params.fua ? 1 : 0) |
    (command === 0 && structured ? 4 : 0) |
    (command === 6 ? 2 | (params.fastZero ? 16 : 0) : 0) |
    (command === 7 ? 8 : 0);
  if ((flags & ~legal) !== 0) return 22;
  const changes = command === 1 || command === 4 || command === 6;
  if (changes && params.readOnly) return 1;
  const offered = [true, true, true, params.flush, params.trim, params.cache, params.zero, blockStatus];
  if (!offered[command]) return 22;
  if (command === 3) return offset === 0n && length === 0 ? 0 : 22;
  if (command === 7 && length === 0) return 22;
  if (offset + BigInt(length) > BigInt(params.sizeBytes)) return command === 1 || command === 6 ? 28 : 22;
  if (offset % BigInt(params.blockBytesMin) !== 0n || length % params.blockBytesMin !== 0) return 22;
  return command <= 1 && length > params.payloadBytesMax ? 22 : 0;
}
