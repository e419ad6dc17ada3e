/** Transmission cases of the catalogue (T..) that need no socket; each also with its bytes cut at every position. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import type { NbdExportParams } from "../../../protocol/nbd/export-params.ts";
import { NbdSession } from "../../../protocol/nbd/session.ts";
import {
  CollectingSink,
  runScript,
  runSplit,
  type ScriptResult,
  smallLimits,
  testExport,
} from "./scripted-session.ts";
import * as wire from "./wire.ts";
import { CMD, ERR, FLAG, OPT, REP, ServerStream } from "./wire.ts";

const size = testExport.sizeBytes;
const block = Buffer.alloc(512, 0xab);

interface Opening {
  readonly structured?: boolean;
  readonly meta?: boolean;
  readonly params?: NbdExportParams;
}

/** Handshake up to transmission on `vol`. */
function opening(how: Opening): Buffer {
  const parts = [wire.clientFlags()];
  if (how.structured === true) parts.push(wire.option(OPT.STRUCTURED));
  if (how.meta === true) parts.push(wire.option(OPT.SET_META, wire.metaData("vol", ["base:allocation"])));
  return Buffer.concat([...parts, wire.go("vol", [3])]);
}

interface Run {
  readonly replies: readonly wire.Reply[];
  readonly result: ScriptResult;
}

/** Sends the requests in every split; READ lengths are taken from `reads` by cookie. */
function transmit(requests: readonly Buffer[], how: Opening = {}, reads: Record<string, number> = {}): Run {
  const script = Buffer.concat([opening(how), ...requests]);
  const result = runSplit(script, { exports: { vol: how.params ?? testExport } });
  return { replies: repliesOf(result, reads), result };
}

function repliesOf(result: ScriptResult, reads: Record<string, number> = {}): readonly wire.Reply[] {
  const stream = new ServerStream(result.output);
  stream.greeting();
  for (let reply = stream.optionReply(); reply !== undefined; reply = stream.optionReply()) {
    if (reply.option === OPT.GO && reply.type === REP.ACK) break;
  }
  const replies = stream.replies((cookie) => reads[`${cookie}`] ?? 0);
  assert.equal(stream.bytes.length, 0, "bytes behind the last reply");
  return replies;
}

/** Error of each request by its cookie, 1, 2, ... in order. */
function errors(requests: readonly wire.RequestFields[], how: Opening = {}): number[] {
  const probe = wire.request({ command: CMD.FLUSH, cookie: 0xffff });
  const { replies } = transmit(
    [...requests.map((fields, index) => wire.request({ ...fields, cookie: index + 1 })), probe],
    how,
  );
  // Every request has exactly one final reply with its cookie, and the probe at the end proves the stream in step.
  const finals = replies.filter((reply) => (reply.flags & 1) !== 0);
  assert.deepEqual(
    finals.map((reply) => Number(reply.cookie)),
    [...requests.map((_, index) => index + 1), 0xffff],
  );
  assert.equal(finals.at(-1)?.error, 0);
  return finals.slice(0, -1).map((reply) => reply.error);
}

const { OK, EPERM, EINVAL, ENOSPC } = ERR;

describe("NBD transmission", () => {
  test("a READ returns what a WRITE wrote, in simple and structured form", () => {
    const write = wire.request({ command: CMD.WRITE, cookie: 7, offset: 1024, data: block });
    const read = wire.request({ command: CMD.READ, cookie: 0xfedcba9876543210n, offset: 512, length: 1536 });
    const expected = Buffer.concat([Buffer.alloc(512), block, Buffer.alloc(512)]);
    const simple = transmit([write, read], {}, { [`${0xfedcba9876543210n}`]: 1536 }).replies;
    assert.deepEqual(
      simple.map((reply) => [reply.kind, reply.cookie, reply.error]),
      [
        ["simple", 7n, 0],
        ["simple", 0xfedcba9876543210n, 0],
      ],
    );
    assert.deepEqual(simple[1]?.data, expected);
    const structured = transmit([write, read], { structured: true }).replies;
    assert.deepEqual(
      structured.map((reply) => [reply.kind, reply.cookie, reply.type, reply.flags]),
      [
        ["simple", 7n, 0, 1],
        ["chunk", 0xfedcba9876543210n, 1, 1],
      ],
    );
    assert.deepEqual(structured[1]?.data, Buffer.concat([wire.u64(512), expected]));
  });

  test("cookies return exactly", () => {
    fc.assert(
      fc.property(fc.array(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { maxLength: 20 }), (cookies) => {
        const script = [
          opening({}),
          ...cookies.map((cookie) => wire.request({ command: CMD.FLUSH, cookie })),
        ];
        const replies = repliesOf(runScript([Buffer.concat(script)]));
        assert.deepEqual(
          replies.map((reply) => reply.cookie),
          cookies,
        );
      }),
    );
  });

  test("T01 a bad request magic disconnects", () => {
    for (const magic of [0, 0x12560953, 0x21e41c71, 0x25609514]) {
      const { result, replies } = transmit([wire.request({ command: CMD.FLUSH, magic })]);
      assert.equal(result.ended?.code, "BAD_REQUEST_MAGIC");
      assert.equal(replies.length, 0);
    }
  });

  test("T02 an unknown command is answered EINVAL and the stream stays in step", () => {
    const commands = [8, 9, 255, 0xffff];
    for (const structured of [false, true]) {
      const answered = errors(
        commands.map((command) => ({ command, length: 4096 })),
        { structured },
      );
      assert.deepEqual(answered, [EINVAL, EINVAL, EINVAL, EINVAL]);
    }
  });

  test("T03 an unknown flag is answered EINVAL, a WRITE's payload skipped first", () => {
    for (const structured of [false, true]) {
      assert.deepEqual(
        errors(
          [
            { command: CMD.WRITE, flags: 1 << 5, data: block },
            { command: CMD.READ, flags: 1 << 15, length: 512 },
            { command: CMD.FLUSH, flags: 1 << 7 },
          ],
          { structured },
        ),
        [EINVAL, EINVAL, EINVAL],
      );
    }
  });

  test("T04 FUA on READ and FLUSH is accepted when advertised", () => {
    const requests = [
      { command: CMD.FLUSH, flags: FLAG.FUA },
      { command: CMD.CACHE, flags: FLAG.FUA, length: 512 },
      { command: CMD.WRITE, flags: FLAG.FUA, data: block },
    ];
    assert.deepEqual(errors(requests), [OK, OK, OK]);
    assert.deepEqual(errors([{ command: CMD.READ, flags: FLAG.FUA, length: 512 }], { structured: true }), [
      OK,
    ]);
    assert.deepEqual(errors(requests, { params: { ...testExport, fua: false } }), [EINVAL, EINVAL, EINVAL]);
  });

  test("T05 DF without structured replies is answered EINVAL", () => {
    assert.deepEqual(errors([{ command: CMD.READ, flags: FLAG.DF, length: 512 }]), [EINVAL]);
    assert.deepEqual(errors([{ command: CMD.READ, flags: FLAG.DF, length: 512 }], { structured: true }), [
      OK,
    ]);
  });

  test("T06 REQ_ONE, NO_HOLE or FAST_ZERO on WRITE is answered EINVAL", () => {
    const requests = [FLAG.REQ_ONE, FLAG.NO_HOLE, FLAG.FAST_ZERO, FLAG.DF].map((flags) => ({
      command: CMD.WRITE,
      flags,
      data: block,
    }));
    assert.deepEqual(errors(requests, { structured: true }), [EINVAL, EINVAL, EINVAL, EINVAL]);
  });

  test("T07 FAST_ZERO that was not advertised is answered EINVAL", () => {
    const request = { command: CMD.ZEROES, flags: FLAG.FAST_ZERO, length: 512 };
    assert.deepEqual(errors([request], { params: { ...testExport, fastZero: false } }), [EINVAL]);
    assert.deepEqual(errors([request]), [OK]);
  });

  test("T08 requests of no bytes succeed and reach no device", () => {
    const commands = [CMD.READ, CMD.WRITE, CMD.TRIM, CMD.ZEROES, CMD.CACHE];
    for (const structured of [false, true]) {
      const requests = commands.flatMap((command) => [{ command }, { command, offset: size }]);
      assert.deepEqual(
        errors(requests, { structured }),
        requests.map(() => OK),
      );
      const { result } = transmit(requests.map((fields) => wire.request(fields)));
      assert.deepEqual(result.ran, []);
    }
  });

  test("T09 a READ outside the export is answered EINVAL", () => {
    const ranges: [bigint, number][] = [
      [BigInt(size), 512],
      [BigInt(size) - 512n, 1024],
      [BigInt(size) - 511n, 512],
      [2n ** 64n - 1n, 512],
      [2n ** 64n - 512n, 512],
      [2n ** 63n, 512],
      [2n ** 53n, 512],
      [2n ** 32n, 512],
      [0n, size + 512],
      [0n, 0xffffffff],
    ];
    for (const structured of [false, true]) {
      const answered = errors(
        ranges.map(([offset, length]) => ({ command: CMD.READ, offset, length })),
        { structured },
      );
      assert.deepEqual(
        answered,
        ranges.map(() => EINVAL),
      );
    }
    assert.deepEqual(errors([{ command: CMD.READ, offset: size - 512, length: 512 }], { structured: true }), [
      OK,
    ]);
  });

  test("T10 a WRITE or WRITE_ZEROES outside the export is answered ENOSPC and changes nothing", () => {
    const requests: wire.RequestFields[] = [
      { command: CMD.WRITE, offset: size, data: block },
      { command: CMD.WRITE, offset: size - 512, data: Buffer.alloc(1024, 1) },
      { command: CMD.WRITE, offset: 2n ** 64n - 512n, data: block },
      { command: CMD.ZEROES, offset: size, length: 512 },
      { command: CMD.ZEROES, offset: 0, length: 0xffff_fe00 },
      { command: CMD.ZEROES, offset: 2n ** 64n - 1n, length: 512 },
    ];
    assert.deepEqual(
      errors(requests),
      requests.map(() => ENOSPC),
    );
    assert.deepEqual(transmit(requests.map((fields) => wire.request(fields))).result.ran, []);
  });

  test("T11 TRIM, CACHE or BLOCK_STATUS outside the export is answered EINVAL", () => {
    const requests = [CMD.TRIM, CMD.CACHE, CMD.STATUS].flatMap((command) => [
      { command, offset: size, length: 512 },
      { command, offset: 512, length: size },
      { command, offset: 2n ** 64n - 512n, length: 1024 },
    ]);
    assert.deepEqual(
      errors(requests, { structured: true, meta: true }),
      requests.map(() => EINVAL),
    );
  });

  test("T12 a FLUSH with offset or length is answered EINVAL", () => {
    const requests = [
      { command: CMD.FLUSH, offset: 512 },
      { command: CMD.FLUSH, length: 512 },
      { command: CMD.FLUSH, offset: 2n ** 63n },
      { command: CMD.FLUSH },
    ];
    assert.deepEqual(errors(requests), [EINVAL, EINVAL, EINVAL, OK]);
  });

  test("T13 a READ above the advertised maximum is answered EINVAL", () => {
    const lengths = [64 * 1024 + 512, size, 0x4000_0000, 0xffff_ffff];
    for (const structured of [false, true]) {
      const answered = errors(
        lengths.map((length) => ({ command: CMD.READ, length })),
        { structured },
      );
      assert.deepEqual(answered, [EINVAL, EINVAL, EINVAL, EINVAL]);
    }
    assert.deepEqual(errors([{ command: CMD.READ, length: 64 * 1024 }], { structured: true }), [OK]);
  });

  test("T14 a WRITE header above the bound of what is skipped disconnects at the header", () => {
    for (const length of [smallLimits.payloadDrainBytesMax + 1, 129 * 1024 * 1024, 0xffff_ffff]) {
      const { result, replies } = transmit([wire.request({ command: CMD.WRITE, length })]);
      assert.equal(result.ended?.code, "PAYLOAD_TOO_LONG");
      assert.equal(replies.length, 0);
    }
  });

  test("T15 a WRITE above the maximum is skipped and answered EINVAL", () => {
    for (const length of [64 * 1024 + 512, 128 * 1024]) {
      const script = Buffer.concat([
        opening({}),
        wire.request({ command: CMD.WRITE, cookie: 1, data: Buffer.alloc(length, 0x25) }),
        wire.request({ command: CMD.FLUSH, cookie: 2 }),
      ]);
      for (const cut of [script.length, 100, 40_000]) {
        const result = runScript([script.subarray(0, cut), script.subarray(cut)]);
        assert.deepEqual(
          repliesOf(result).map((reply) => [reply.cookie, reply.error]),
          [
            [1n, EINVAL],
            [2n, OK],
          ],
        );
        assert.deepEqual(result.ran, ["3 0 0 0"]);
      }
    }
  });

  test("T16 requests not aligned to the advertised block are answered EINVAL", () => {
    const requests: wire.RequestFields[] = [];
    for (const command of [CMD.READ, CMD.TRIM, CMD.CACHE, CMD.ZEROES, CMD.STATUS]) {
      requests.push({ command, offset: 1, length: 512 }, { command, offset: 0, length: 511 });
      requests.push({ command, offset: 511, length: 512 }, { command, offset: 512, length: 513 });
    }
    requests.push({ command: CMD.WRITE, offset: 1, data: block });
    requests.push({ command: CMD.WRITE, offset: 0, data: block.subarray(1) });
    const how = { structured: true, meta: true };
    assert.deepEqual(
      errors(requests, how),
      requests.map(() => EINVAL),
    );
    const bytewise = { ...how, params: { ...testExport, blockBytesMin: 1 } };
    assert.deepEqual(
      errors(requests, bytewise),
      requests.map(() => OK),
    );
  });

  test("T17 BLOCK_STATUS that was not negotiated is answered EINVAL", () => {
    const status = { command: CMD.STATUS, length: 512 };
    assert.deepEqual(errors([status]), [EINVAL]);
    assert.deepEqual(errors([status], { structured: true }), [EINVAL]);
    assert.deepEqual(errors([status], { structured: true, meta: true }), [OK]);
    // Selected for another export, or undone by a later selection that failed.
    for (const undo of [
      wire.option(OPT.SET_META, wire.metaData("other", ["base:allocation"])),
      wire.option(OPT.SET_META, wire.metaData("vol", ["base:"])),
      wire.option(OPT.SET_META, "junk"),
    ]) {
      const script = Buffer.concat([
        wire.clientFlags(),
        wire.option(OPT.STRUCTURED),
        wire.option(OPT.SET_META, wire.metaData("vol", ["base:allocation"])),
        undo,
        wire.go("vol"),
        wire.request(status),
      ]);
      const result = runSplit(script, { exports: { vol: testExport, other: testExport } });
      assert.deepEqual(
        repliesOf(result).map((reply) => reply.error),
        [EINVAL],
      );
    }
  });

  test("T18 structured errors: no simple reply to READ, short message, DONE", () => {
    const { replies } = transmit(
      [
        wire.request({ command: CMD.READ, cookie: 1, offset: 1, length: 1 }),
        wire.request({ command: 99, cookie: 2 }),
        wire.request({ command: CMD.READ, cookie: 3 }),
        wire.request({ command: CMD.STATUS, cookie: 4, length: 4096 }),
      ],
      { structured: true, meta: true },
    );
    assert.deepEqual(
      replies.map((reply) => [reply.kind, reply.cookie, reply.type, reply.flags]),
      [
        ["chunk", 1n, 0x8001, 1],
        ["chunk", 2n, 0x8001, 1],
        ["chunk", 3n, 0, 1],
        ["chunk", 4n, 5, 1],
      ],
    );
    for (const reply of replies.slice(0, 2)) {
      const messageBytes = reply.data.readUInt16BE(4);
      assert.equal(reply.data.length, 6 + messageBytes);
      assert.ok(messageBytes <= 4096);
    }
    assert.deepEqual(replies[3]?.data, Buffer.concat([wire.u32(1), wire.u32(4096), wire.u32(0)]));
  });

  test("T18 an over-long message is cut to the string limit", () => {
    const sink = new CollectingSink();
    const session = new NbdSession({ sink, tls: "off" });
    session.receive(Buffer.concat([wire.clientFlags(), wire.option(OPT.STRUCTURED), wire.go("vol")]));
    for (let event = session.next(); event !== null; event = session.next()) {
      if (event.kind === "exportRequested") session.answerExport({ kind: "export", params: testExport });
    }
    const before = sink.collected().length;
    session.replies.error({ command: CMD.READ, cookieHigh: 0, cookieLow: 1 }, ERR.EIO, "x".repeat(10_000));
    const reply = new ServerStream(sink.collected().subarray(before)).reply();
    assert.equal(reply?.data.length, 6 + 4096);
  });

  test("T20 DISC ends the session without reply, whatever its fields and whatever follows", () => {
    const write = wire.request({ command: CMD.WRITE, cookie: 1, data: block });
    const late = wire.request({ command: CMD.WRITE, cookie: 3, offset: 512, data: block });
    for (const disc of [{}, { offset: 4096, length: 77 }, { flags: 0xffff, length: 0xffffffff }]) {
      const { replies, result } = transmit([
        write,
        wire.request({ command: CMD.DISC, cookie: 2, ...disc }),
        late,
      ]);
      assert.deepEqual(result.ended, { kind: "ended", clean: true, code: "DISCONNECT_REQUESTED" });
      assert.deepEqual(
        replies.map((reply) => reply.cookie),
        [1n],
      );
      assert.deepEqual(result.ran, ["1 0 0 512"]);
    }
  });

  test("T21 equal cookies are each answered", () => {
    const requests = [1, 2, 3].map(() => wire.request({ command: CMD.FLUSH, cookie: 5 }));
    assert.deepEqual(
      transmit(requests).replies.map((reply) => [reply.cookie, reply.error]),
      [
        [5n, OK],
        [5n, OK],
        [5n, OK],
      ],
    );
  });

  test("T22 a WRITE cut off in its payload never becomes a request", () => {
    const script = Buffer.concat([
      opening({}),
      wire.request({ command: CMD.WRITE, data: Buffer.alloc(8192, 1) }),
    ]);
    for (const missing of [1, 512, 8191, 8192]) {
      const cut = script.length - missing;
      assert.deepEqual(runScript([script.subarray(0, cut)]).ran, []);
      assert.deepEqual(runScript([script.subarray(0, 100), script.subarray(100, cut)]).ran, []);
    }
  });

  test("T24 writing to a read-only export is answered EPERM, reading works", () => {
    const requests = [
      { command: CMD.WRITE, data: block },
      { command: CMD.TRIM, length: 512 },
      { command: CMD.ZEROES, length: 512 },
      { command: CMD.WRITE, flags: FLAG.FUA, data: block },
      { command: CMD.FLUSH },
    ];
    const params = { ...testExport, readOnly: true };
    assert.deepEqual(errors(requests, { params }), [EPERM, EPERM, EPERM, EPERM, OK]);
  });

  test("commands that were not advertised are answered EINVAL", () => {
    const params = { ...testExport, trim: false, zero: false, cache: false };
    const requests = [CMD.TRIM, CMD.ZEROES, CMD.CACHE].map((command) => ({ command, length: 512 }));
    assert.deepEqual(errors(requests, { params }), [EINVAL, EINVAL, EINVAL]);
  });

  test("T27 zeroes and trim reach the device with their flags, large ones as one request", () => {
    const big = { ...testExport, sizeBytes: 2 ** 40 };
    const script = Buffer.concat([
      opening({}),
      wire.request({
        command: CMD.ZEROES,
        flags: FLAG.NO_HOLE | FLAG.FUA,
        cookie: 1,
        offset: 4096,
        length: 4096,
      }),
      wire.request({ command: CMD.TRIM, cookie: 2, offset: 2 ** 39, length: 0xffff_fe00 }),
    ]);
    const result = runScript([script], { exports: { vol: big } });
    assert.deepEqual(result.ran, ["6 3 4096 4096", `4 0 ${2 ** 39} ${0xffff_fe00}`]);
  });

  test("T30 a header cut at each of its 28 bytes, and a thousand requests in one chunk", () => {
    // transmit() cuts everywhere, so one request proves the first half.
    assert.equal(transmit([wire.request({ command: CMD.WRITE, data: block })]).replies.length, 1);
    const many = Array.from({ length: 1000 }, (_, cookie) => wire.request({ command: CMD.FLUSH, cookie }));
    const whole = runScript([Buffer.concat([opening({}), ...many])]);
    const bytewise = runScript([...Buffer.concat([opening({}), ...many])].map((byte) => Uint8Array.of(byte)));
    assert.equal(repliesOf(whole).length, 1000);
    assert.ok(bytewise.output.equals(whole.output));
  });

  test("T30 10 MB of headers parse in linear time, whole and in single bytes", () => {
    const requests = Math.floor(10_000_000 / 28);
    const stream = Buffer.concat(
      Array.from({ length: requests }, () => wire.request({ command: CMD.CACHE })),
    );
    for (const chunkBytes of [stream.length, 1]) {
      const session = new NbdSession({ sink: new CollectingSink(), tls: "off" });
      session.receive(opening({}));
      for (let event = session.next(); event !== null; event = session.next()) {
        if (event.kind === "exportRequested") session.answerExport({ kind: "export", params: testExport });
      }
      // A quadratic parser would not come back within the test runner's patience.
      let parsed = 0;
      for (let at = 0; at < stream.length; at += chunkBytes) {
        session.receive(stream.subarray(at, at + chunkBytes));
        while (session.next() !== null) parsed += 1;
      }
      assert.equal(parsed, requests);
      assert.equal(session.bufferedBytes, 0);
    }
  });

  test("a payload inside one chunk is a view, one across chunks is gathered once", () => {
    const session = new NbdSession({ sink: new CollectingSink(), tls: "off" });
    session.receive(opening({}));
    for (let event = session.next(); event !== null; event = session.next()) {
      if (event.kind === "exportRequested") session.answerExport({ kind: "export", params: testExport });
    }
    const bytes = wire.request({ command: CMD.WRITE, data: block });
    session.receive(bytes);
    const inside = session.next();
    assert.ok(inside?.kind === "request" && inside.data?.buffer === bytes.buffer);
    session.receive(bytes.subarray(0, 100));
    assert.deepEqual(session.next(), { kind: "payloadAnnounced", bytes: 512 });
    assert.equal(session.next(), null);
    assert.equal(session.insideRequest, true);
    session.acceptPayload();
    assert.equal(session.next(), null);
    session.receive(bytes.subarray(100));
    const gathered = session.next();
    assert.ok(gathered?.kind === "request" && gathered.data !== null);
    assert.equal(gathered.data.buffer.byteLength, 512);
    assert.deepEqual(Buffer.from(gathered.data), block);
    assert.equal(session.insideRequest, false);
  });
});
