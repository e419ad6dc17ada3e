/**
 * The shell of an NBD session under fuzz: answers what the session asks, keeps its promises and checks that the session
 * keeps its own: legal events only, bounded in number, in memory and in what it sends. Holds no socket and no disk.
 */
import { crc32 } from "node:zlib";
import type { NbdEvent, NbdRejectedRequest, NbdRequest } from "../../../protocol/nbd/events.ts";
import type { NbdExportParams } from "../../../protocol/nbd/export-params.ts";
import type { NbdTlsMode } from "../../../protocol/nbd/handshake.ts";
import type { NbdSessionLimits } from "../../../protocol/nbd/limits.ts";
import type { ReplySink } from "../../../protocol/nbd/reply-sink.ts";
import { NbdSession } from "../../../protocol/nbd/session.ts";
import { testExport } from "../../protocol/nbd/scripted-session.ts";
import { require } from "../target.ts";

export const fuzzLimits: NbdSessionLimits = {
  optionsMax: 64,
  optionsPerListedExport: 32,
  optionBytesMax: 16 * 1024,
  optionDrainBytesMax: 1024 * 1024,
  payloadBytesMax: 64 * 1024,
  payloadDrainBytesMax: 128 * 1024,
};

/** What an export may be like; the first is the usual one. */
export const fuzzExports: readonly NbdExportParams[] = [
  testExport,
  { ...testExport, readOnly: true },
  { ...testExport, fua: false, fastZero: false, trim: false, cache: false, extents: false, flush: false },
  { ...testExport, sizeBytes: 2 ** 53 - 4096, blockBytesMin: 4096 },
];
/** Export names that exist, as the captured clients name them. */
export const fuzzExportNames: readonly string[] = ["erp/data", "vol", ""];

/** Collects what is sent, in one buffer that is used again. */
export class FuzzSink implements ReplySink {
  bytes: Buffer = Buffer.alloc(256 * 1024);
  used = 0;

  reset(): void {
    this.used = 0;
  }

  claim(length: number): number {
    require(length <= 64 * 1024, `claim of ${length} bytes`);
    if (this.used + length > this.bytes.length) {
      const larger = Buffer.alloc(this.bytes.length * 2);
      larger.set(this.bytes);
      this.bytes = larger;
    }
    const at = this.used;
    this.used += length;
    return at;
  }

  payload(): void {
    require(false, "the session sent data that nobody gave it");
  }

  get sent(): Buffer {
    return this.bytes.subarray(0, this.used);
  }
}

/** Flags that each command may carry when everything is advertised: the specification's table, by command number. */
const flagsMax: readonly number[] = [0b101, 0b1, 0, 0b1, 0b1, 0b1, 0b10011, 0b1001];
const errnos = new Set([1, 5, 22, 28, 75, 95, 108]);

/** Throws unless the request may run on an export with these parameters. */
export function requireLegal(request: NbdRequest, params: NbdExportParams): void {
  const { command, flags, offset, length, data } = request;
  require(command >= 0 && command <= 7 && command !== 2, `command ${command}`);
  require((flags & ~flagsMax[command]!) === 0, `command ${command} with flags ${flags}`);
  require(Number.isSafeInteger(offset) && offset >= 0, `offset ${offset}`);
  require(BigInt(offset) + BigInt(length) <= BigInt(params.sizeBytes), `range ${offset}+${length}`);
  require(offset % params.blockBytesMin === 0 &&
    length % params.blockBytesMin === 0, `range ${offset}+${length}`);
  require(command > 1 || length <= params.payloadBytesMax, `payload of ${length}`);
  require(command === 1 ? data?.length === length : data === null, `data of command ${command}`);
  require(!params.readOnly || (command !== 1 && command !== 4 && command !== 6), `command ${command}`);
}

function cookieOf(event: NbdRequest | NbdRejectedRequest): bigint {
  return (BigInt(event.cookieHigh >>> 0) << 32n) | BigInt(event.cookieLow >>> 0);
}

/** A request in the words of the second reading. */
export function requestLine(event: NbdRequest): string {
  const data = event.data === null ? "" : Buffer.from(event.data).toString("latin1");
  return `request ${event.command} ${event.flags} ${cookieOf(event)} ${event.offset} ${event.length} ${data}`;
}

export function rejectedLine(event: NbdRejectedRequest): string {
  return `rejected ${event.command} ${cookieOf(event)} ${event.errno}`;
}

export interface Conversation {
  outcome: string;
  /** Over all events in their order, payloads included. */
  digest: number;
  /** STARTTLS came up: what follows depends on how the bytes were cut. */
  tls: boolean;
}

/**
 * Feeds `input` cut at `cuts` (rising) into a session, and into the session inside TLS when one is asked for. Replies go
 * to `sink`, a line for each request to `lines`.
 */
export function converse(
  input: Uint8Array,
  cuts: readonly number[],
  mode: NbdTlsMode,
  params: NbdExportParams,
  sink: FuzzSink,
  lines?: string[],
): Conversation {
  sink.reset();
  let session = new NbdSession({ sink, tls: mode, limits: fuzzLimits });
  const result: Conversation = { outcome: "WAITING", digest: 0x811c9dc5, tls: false };
  // An option is 16 bytes, a request 28; one more event for a payload's announcement.
  let eventsLeft = 2 * Math.ceil(input.length / 16) + 4;
  const note = (value: number): void => {
    result.digest = Math.imul(result.digest ^ value, 0x01000193);
  };
  const take = (event: NbdEvent): boolean => {
    eventsLeft -= 1;
    require(eventsLeft >= 0, "more events than the input can hold");
    switch (event.kind) {
      case "request":
        requireLegal(event, params);
        lines?.push(requestLine(event));
        note(event.command);
        note(event.flags);
        note(event.cookieHigh);
        note(event.cookieLow);
        note(event.offset % 4294967291);
        note(event.length);
        if (event.data !== null) note(crc32(event.data));
        session.replies.done(event);
        return true;
      case "rejected":
        require(errnos.has(event.errno), `error ${event.errno}`);
        require(event.message.length > 0 && event.message.length <= 200, "message of a refusal");
        lines?.push(rejectedLine(event));
        note(event.command);
        note(event.errno);
        note(event.cookieHigh);
        note(event.cookieLow);
        session.replies.error(event, event.errno, event.message);
        return true;
      case "payloadAnnounced":
        require(event.bytes > 0 && event.bytes <= fuzzLimits.payloadBytesMax, `payload of ${event.bytes}`);
        session.acceptPayload();
        return true;
      case "listRequested":
        note(1);
        session.answerList(fuzzExportNames);
        return true;
      case "exportRequested":
        require(event.name.length <= 4096, "length of a name");
        note(event.name.length);
        session.answerExport(
          fuzzExportNames.includes(event.name) ? { kind: "export", params } : { kind: "unknown" },
        );
        return true;
      case "tlsRequested": {
        result.tls = true;
        require(session.bufferedBytes === 0, "plain text is left over behind STARTTLS");
        const { padded } = session;
        session = new NbdSession({ sink, tls: "established", limits: fuzzLimits, padded });
        return true;
      }
      case "ended":
        result.outcome = event.code;
        require(session.next() === null && session.bufferedBytes === 0, "something behind the end");
        return false;
    }
  };
  let from = 0;
  for (let index = 0; index <= cuts.length; index += 1) {
    const to = cuts[index] ?? input.length;
    session.receive(input.subarray(from, to));
    from = to;
    for (;;) {
      const current = session;
      const event = current.next();
      if (event === null) break;
      if (!take(event)) return result;
    }
    require(session.bufferedBytes === 0, "the session rests although nothing is asked");
  }
  if (session.transmitting) result.outcome = session.insideRequest ? "INSIDE_REQUEST" : "TRANSMITTING";
  return result;
}
