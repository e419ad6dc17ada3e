/**
 * Drives the pure session with a script of client bytes, an export table and a tiny disk, all synchronous: the same
 * bytes in must give the same bytes out however they are cut. Records what reached the disk.
 */
import assert from "node:assert/strict";
import { NbdCommand } from "../../../protocol/nbd/constants.ts";
import type { NbdEvent, NbdRequest } from "../../../protocol/nbd/events.ts";
import type { NbdExportParams } from "../../../protocol/nbd/export-params.ts";
import type { NbdTlsMode } from "../../../protocol/nbd/handshake.ts";
import { type NbdSessionLimits, nbdSessionLimits } from "../../../protocol/nbd/limits.ts";
import type { ReplySink } from "../../../protocol/nbd/reply-sink.ts";
import { NbdSession } from "../../../protocol/nbd/session.ts";

/** Collects what the session wants sent. */
export class CollectingSink implements ReplySink {
  bytes = Buffer.alloc(0);
  #parts: Uint8Array[] = [];

  claim(length: number): number {
    this.bytes = Buffer.alloc(length);
    this.#parts.push(this.bytes);
    return 0;
  }

  payload(data: Uint8Array): void {
    this.#parts.push(Buffer.from(data));
  }

  collected(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

export const testExport: NbdExportParams = {
  sizeBytes: 256 * 1024,
  blockBytesMin: 512,
  blockBytesPreferred: 4096,
  payloadBytesMax: 64 * 1024,
  readOnly: false,
  flush: true,
  fua: true,
  trim: true,
  zero: true,
  fastZero: true,
  cache: true,
  extents: true,
  multiConn: true,
};

/** Limits small enough to reach in a test that is split at every position. */
export const smallLimits: NbdSessionLimits = {
  ...nbdSessionLimits,
  payloadBytesMax: 64 * 1024,
  payloadDrainBytesMax: 128 * 1024,
};

export interface ScriptOptions {
  readonly tls?: NbdTlsMode;
  readonly exports?: Readonly<Record<string, NbdExportParams>>;
  readonly limits?: NbdSessionLimits;
}

export interface ScriptResult {
  readonly output: Buffer;
  readonly ended: Extract<NbdEvent, { kind: "ended" }> | null;
  readonly tlsRequested: boolean;
  readonly transmitting: boolean;
  /** Requests that reached the disk, and looked-up names, in order. */
  readonly ran: readonly string[];
  readonly asked: readonly string[];
  readonly disk: Buffer;
}

/** Feeds the chunks one after the other, answering everything at once. */
export function runScript(chunks: readonly Uint8Array[], options: ScriptOptions = {}): ScriptResult {
  const exports = options.exports ?? { vol: testExport };
  const sink = new CollectingSink();
  const session = new NbdSession({ sink, tls: options.tls ?? "off", limits: options.limits ?? smallLimits });
  const disk = Buffer.alloc(256 * 1024);
  const ran: string[] = [];
  const asked: string[] = [];
  let ended: ScriptResult["ended"] = null;
  let tlsRequested = false;

  const take = (event: NbdEvent): void => {
    switch (event.kind) {
      case "listRequested":
        session.answerList(Object.keys(exports));
        return;
      case "exportRequested": {
        asked.push(`${event.use} ${event.name}`);
        const params = exports[event.name];
        session.answerExport(params === undefined ? { kind: "unknown" } : { kind: "export", params });
        return;
      }
      case "tlsRequested":
        tlsRequested = true;
        return;
      case "payloadAnnounced":
        assert.ok(event.bytes > 0);
        session.acceptPayload();
        return;
      case "rejected":
        session.replies.error(event, event.errno, event.message);
        return;
      case "ended":
        assert.equal(ended, null, "a session ends once");
        ended = event;
        return;
      case "request":
        if (event.length > 0 || event.command === NbdCommand.flush) {
          ran.push(`${event.command} ${event.flags} ${event.offset} ${event.length}`);
        }
        runOnDisk(event);
        return;
    }
  };
  const runOnDisk = (event: NbdRequest): void => {
    const { offset, length } = event;
    if (event.command === NbdCommand.write) {
      assert.ok(event.data !== null && event.data.length === length);
      disk.set(event.data, offset);
    } else if (event.command === NbdCommand.writeZeroes || event.command === NbdCommand.trim) {
      disk.subarray(offset, offset + length).fill(0);
    } else if (event.command === NbdCommand.read && length > 0) {
      session.replies.data(event, offset, disk.subarray(offset, offset + length));
      return;
    } else if (event.command === NbdCommand.blockStatus) {
      session.replies.status(event, [{ length, hole: false, zero: false }]);
      return;
    }
    session.replies.done(event);
  };

  for (const chunk of chunks) {
    session.receive(Buffer.from(chunk));
    for (let event = session.next(); event !== null; event = session.next()) take(event);
    if (ended !== null || tlsRequested) break;
  }
  return {
    output: sink.collected(),
    ended,
    tlsRequested,
    transmitting: session.transmitting,
    ran,
    asked,
    disk,
  };
}

/** Positions at which long scripts are cut: every one up to here, then every 97th. */
const everyPositionUpTo = 1500;

/**
 * Runs the script whole, byte by byte, and cut at each position, and checks that all give the same. Returns the whole
 * run's result.
 */
export function runSplit(script: Uint8Array, options: ScriptOptions = {}): ScriptResult {
  const whole = runScript([script], options);
  const same = (chunks: readonly Uint8Array[], how: string): void => {
    const other = runScript(chunks, options);
    assert.ok(other.output.equals(whole.output), `replies differ when ${how}`);
    assert.deepEqual(
      [other.ended, other.tlsRequested, other.ran, other.asked],
      [whole.ended, whole.tlsRequested, whole.ran, whole.asked],
      how,
    );
    assert.ok(other.disk.equals(whole.disk), `disk differs when ${how}`);
  };
  const bytes: Uint8Array[] = [];
  for (let at = 0; at < script.length; at += 1) bytes.push(script.subarray(at, at + 1));
  same(bytes, "fed byte by byte");
  for (let at = 1; at < script.length; at += at < everyPositionUpTo ? 1 : 97) {
    same([script.subarray(0, at), script.subarray(at)], `cut at ${at}`);
  }
  return whole;
}
