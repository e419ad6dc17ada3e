/**
 * The two NBD parsers under fuzz: a whole conversation from its first byte, and the requests of the transmission phase.
 * Each input is fed in pieces of its own choosing; for some the same bytes are fed whole and must give the same, and for
 * some a second reading of the specification says what must come out.
 */
import { ByteInput } from "../../../protocol/nbd/byte-input.ts";
import type { NbdExportParams } from "../../../protocol/nbd/export-params.ts";
import type { NbdTlsMode } from "../../../protocol/nbd/handshake.ts";
import { NbdRequestParser } from "../../../protocol/nbd/request-parser.ts";
import * as wire from "../../protocol/nbd/wire.ts";
import { CMD, FLAG, OPT, REP, ServerStream } from "../../protocol/nbd/wire.ts";
import { type FuzzTarget, inputHash, require } from "../target.ts";
import { expectHandshake, expectRequests } from "./nbd-model.ts";
import {
  converse,
  FuzzSink,
  fuzzExportNames,
  fuzzExports,
  fuzzLimits,
  rejectedLine,
  requestLine,
  requireLegal,
} from "./nbd-shell.ts";

const inputBytesMax = 24 * 1024;

/** Rising cut positions drawn from `hash`: none, a few, or byte by byte for a short input. */
function cutsOf(length: number, hash: number): number[] {
  const cuts: number[] = [];
  const way = hash & 7;
  if (way === 0 && length <= 512) {
    for (let at = 1; at < length; at += 1) cuts.push(at);
    return cuts;
  }
  let at = 0;
  let state = hash;
  for (let left = way; left > 0; left -= 1) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    at += (state >>> 8) % (length + 1);
    if (at >= length) break;
    cuts.push(at);
  }
  return cuts;
}

/** First byte of an option. A conversation that begins with one is that inside TLS; client flags begin with 0. */
const optionStart = 0x49;

function modeOf(input: Uint8Array, hash: number): NbdTlsMode {
  if (input[0] === optionStart) return "established";
  return (hash & 24) === 0 ? "required" : "off";
}

const sink = new FuzzSink();
const otherSink = new FuzzSink();

/** Reads what was sent, and which requests were seen, against what the specification wants. */
function requireExpected(
  input: Uint8Array,
  mode: NbdTlsMode,
  params: NbdExportParams,
  end: string,
  sent: Buffer,
  lines: readonly string[],
): void {
  const expected = expectHandshake(Buffer.from(input), mode, {
    exports: fuzzExportNames,
    params,
    limits: fuzzLimits,
  });
  const stream = new ServerStream(sent);
  if (mode !== "established") require(stream.greeting()?.flags === 3, "greeting");
  const finals: (readonly [number, number])[] = [];
  while (finals.length < expected.replies.length) {
    const reply = stream.optionReply();
    require(reply !== undefined, `reply ${finals.length} is missing`);
    if (reply.type !== REP.INFO && reply.type !== REP.META) finals.push([reply.option, reply.type]);
  }
  require(JSON.stringify(finals) ===
    JSON.stringify(
      expected.replies,
    ), `replies ${JSON.stringify(finals)}, not ${JSON.stringify(expected.replies)}`);
  if (expected.transmissionAt === undefined) {
    require(stream.bytes.length === 0, "a reply to nothing");
    if (expected.end === "NAME") require(end.startsWith("STRING_"), `end ${end}`);
    else require(end === (expected.end ?? "WAITING"), `end ${end}, not ${expected.end}`);
  } else {
    // EXPORT_NAME's answer has no header: size, flags, and zeroes unless agreed.
    const requests = expectRequests(
      Buffer.from(input.subarray(expected.transmissionAt)),
      params,
      expected.structured,
      expected.blockStatus,
      fuzzLimits,
    );
    const last = requests.at(-1);
    if (last?.startsWith("ended")) {
      require(`ended ${end}` === last, `end ${end}, not ${last}`);
      requests.pop();
    } else require(end === "TRANSMITTING" || end === "INSIDE_REQUEST", `end ${end}`);
    require(lines.join("\n") === requests.join("\n"), `came to\n${lines}\nmust be\n${requests}`);
  }
}

/**
 * The same bytes in pieces and whole, both checked in full. Returns the outcome; nothing is compared once STARTTLS came
 * up, because what follows rightly depends on the pieces.
 */
export function checkConversation(
  input: Uint8Array,
  cuts: readonly number[],
  mode: NbdTlsMode,
  params: NbdExportParams,
): string {
  const lines: string[] = [];
  const cut = converse(input, cuts, mode, params, sink);
  const whole = converse(input, [], mode, params, otherSink, lines);
  for (const { tls, outcome } of [cut, whole])
    if (tls || outcome === "BYTES_AFTER_STARTTLS") return cut.outcome;
  require(whole.outcome === cut.outcome &&
    whole.digest === cut.digest, `cut ${cut.outcome}, whole ${whole.outcome}`);
  require(sink.sent.equals(otherSink.sent), "replies depend on how the bytes were cut");
  requireExpected(input, mode, params, cut.outcome, sink.sent, lines);
  return cut.outcome;
}

/** Puts magic numbers right along the lengths as they stand, so that a mutated message is still a message. */
function repairSession(bytes: Buffer): void {
  if (bytes.length < 4) return;
  const inside = bytes[0] === optionStart;
  if (!inside) bytes.writeUInt32BE(bytes[3]! & 3, 0);
  for (let at = inside ? 0 : 4; at + 16 <= bytes.length; ) {
    if (bytes.readUInt32BE(at) === requestMagic) {
      repairRequests(bytes.subarray(at));
      return;
    }
    bytes.write("IHAVEOPT", at, "latin1");
    // A number of an option more often than any number.
    if (bytes.readUInt32BE(at + 8) > 10) bytes.writeUInt32BE(bytes[at + 11]! % 12, at + 8);
    at += 16 + bytes.readUInt32BE(at + 12);
  }
}

const requestMagic = 0x25609513;

function repairRequests(bytes: Buffer): void {
  for (let at = 0; at + 28 <= bytes.length; ) {
    bytes.writeUInt32BE(requestMagic, at);
    const command = bytes.readUInt16BE(at + 6);
    at += 28 + (command === 1 ? bytes.readUInt32BE(at + 24) : 0);
  }
}

/** A whole connection from the client flags on. */
export const nbdSession: FuzzTarget = {
  name: "nbd-session",
  inputBytesMax,
  repair: repairSession,
  seeds: () => {
    const meta = wire.metaData("vol", ["base:allocation", "base:", "x:y"]);
    const options = [
      wire.option(OPT.STRUCTURED),
      wire.option(OPT.LIST),
      wire.option(OPT.LIST_META, meta),
      wire.option(OPT.SET_META, meta),
      wire.info("vol", [0, 1, 2, 3]),
      wire.option(OPT.STARTTLS),
      wire.option(99, "later"),
    ];
    const requests = requestSeeds();
    return [
      Buffer.concat([wire.clientFlags(), ...options, wire.go("vol", [3]), ...requests]),
      Buffer.concat([wire.clientFlags(1), ...options.slice(0, 3), wire.option(OPT.ABORT)]),
      Buffer.concat([wire.clientFlags(0), wire.option(OPT.EXPORT_NAME, "vol"), ...requests]),
      Buffer.concat([wire.clientFlags(), wire.option(OPT.STARTTLS)]),
      Buffer.concat([wire.clientFlags(), wire.option(OPT.STARTTLS), ...options]),
      Buffer.concat([...options, wire.go("vol"), ...requests]),
      Buffer.concat([...options, wire.option(OPT.EXPORT_NAME, "vol"), ...requests]),
    ];
  },
  run(input) {
    const hash = inputHash(input);
    const mode = modeOf(input, hash);
    const params = fuzzExports[(hash >>> 5) & 3]!;
    const cuts = cutsOf(input.length, hash);
    const outcome =
      ((hash >>> 7) & 7) === 0
        ? checkConversation(input, cuts, mode, params)
        : converse(input, cuts, mode, params, sink).outcome;
    // Replies are bounded by the number of options (at most 160, each below 4.5 KiB) and of requests.
    require(sink.used <= 1024 * 1024 + 4 * input.length, `${sink.used} bytes sent`);
    return outcome;
  },
};

function requestSeeds(): Buffer[] {
  const data = Buffer.alloc(1024, 0xa5);
  return [
    wire.request({ command: CMD.WRITE, offset: 512, data }),
    wire.request({ command: CMD.WRITE, flags: FLAG.FUA, offset: 4096, data: data.subarray(0, 512) }),
    wire.request({ command: CMD.READ, length: 65_536 }),
    wire.request({ command: CMD.FLUSH, cookie: 2n ** 64n - 1n }),
    wire.request({ command: CMD.TRIM, offset: 8192, length: 4096 }),
    wire.request({ command: CMD.CACHE, length: 4096 }),
    wire.request({ command: CMD.ZEROES, flags: FLAG.NO_HOLE | FLAG.FAST_ZERO, length: 8192 }),
    wire.request({ command: CMD.STATUS, flags: FLAG.REQ_ONE, length: 262_144 }),
    wire.request({ command: CMD.DISC }),
  ];
}

/** The transmission phase alone. */
export const nbdRequests: FuzzTarget = {
  name: "nbd-requests",
  inputBytesMax,
  repair: repairRequests,
  seeds: () => [Buffer.concat(requestSeeds()), ...requestSeeds()],
  run(input) {
    const hash = inputHash(input);
    const params = fuzzExports[(hash >>> 5) & 3]!;
    const structured = (hash & 8) !== 0;
    const blockStatus = structured && params.extents;
    const queue = new ByteInput();
    const parser = new NbdRequestParser(queue, { params, structured, blockStatus }, fuzzLimits);
    const cuts = cutsOf(input.length, hash);
    const lines: string[] | undefined = ((hash >>> 7) & 7) === 0 ? [] : undefined;
    let eventsLeft = 2 * Math.ceil(input.length / 28) + 2;
    let outcome = "";
    let from = 0;
    for (let index = 0; index <= cuts.length && outcome === ""; index += 1) {
      const to = cuts[index] ?? input.length;
      queue.push(input.subarray(from, to));
      from = to;
      for (let event = parser.next(); event !== null; event = parser.next()) {
        eventsLeft -= 1;
        require(eventsLeft >= 0, "more events than the input can hold");
        if (event.kind === "request") {
          requireLegal(event, params);
          lines?.push(requestLine(event));
        } else if (event.kind === "rejected") {
          lines?.push(rejectedLine(event));
        } else if (event.kind === "payloadAnnounced") {
          require(event.bytes > 0 && event.bytes <= fuzzLimits.payloadBytesMax, `payload of ${event.bytes}`);
          parser.acceptPayload();
        } else {
          outcome = event.code;
          lines?.push(`ended ${event.code}`);
          break;
        }
      }
      require(queue.buffered === 0, "bytes are left although nothing is asked");
    }
    require(outcome === "" || parser.next() === null, "something behind the end");
    if (lines !== undefined) {
      const expected = expectRequests(Buffer.from(input), params, structured, blockStatus, fuzzLimits);
      require(lines.join("\n") === expected.join("\n"), `came to\n${lines}\nmust be\n${expected}`);
    }
    return outcome === "" ? (parser.insideRequest ? "INSIDE_REQUEST" : "TRANSMITTING") : outcome;
  },
};
