/** TLS cases of the catalogue (S..) inside the session, and what must hold for any bytes at all. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { NbdSession } from "../../../protocol/nbd/session.ts";
import { CollectingSink, runScript, runSplit, testExport } from "./scripted-session.ts";
import * as wire from "./wire.ts";
import { CMD, OPT, REP, ServerStream } from "./wire.ts";

function types(output: Buffer): [number, number][] {
  const stream = new ServerStream(output);
  stream.greeting();
  return stream.optionReplies().map((reply) => [reply.option, reply.type]);
}

describe("NBD session with TLS", () => {
  test("S01 everything but STARTTLS and ABORT is answered TLS_REQD before TLS", () => {
    const options: [number, Buffer][] = [
      [OPT.LIST, wire.option(OPT.LIST)],
      [OPT.INFO, wire.info("vol")],
      [OPT.GO, wire.go("vol")],
      [OPT.STRUCTURED, wire.option(OPT.STRUCTURED)],
      [OPT.SET_META, wire.option(OPT.SET_META, wire.metaData("vol", ["base:allocation"]))],
      [99, wire.option(99, "data")],
      [OPT.GO, wire.option(OPT.GO, "junk")],
    ];
    const result = runSplit(Buffer.concat([wire.clientFlags(), ...options.map(([, bytes]) => bytes)]), {
      tls: "required",
    });
    assert.deepEqual(
      types(result.output),
      options.map(([option]) => [option, REP.TLS_REQD]),
    );
    assert.deepEqual(result.asked, []);
  });

  test("S02 EXPORT_NAME before TLS disconnects", () => {
    const result = runSplit(Buffer.concat([wire.clientFlags(), wire.option(OPT.EXPORT_NAME, "vol")]), {
      tls: "required",
    });
    assert.deepEqual(result.ended, { kind: "ended", clean: false, code: "TLS_REQUIRED" });
    assert.equal(result.output.length, 18);
  });

  test("S03 ABORT before TLS is acknowledged", () => {
    const result = runSplit(Buffer.concat([wire.clientFlags(), wire.option(OPT.ABORT)]), { tls: "required" });
    assert.deepEqual(types(result.output), [[OPT.ABORT, REP.ACK]]);
    assert.equal(result.ended?.clean, true);
  });

  test("S04 STARTTLS inside TLS is answered ERR_INVALID", () => {
    const result = runSplit(Buffer.concat([wire.option(OPT.STARTTLS), wire.option(OPT.LIST)]), {
      tls: "established",
    });
    assert.deepEqual(types(Buffer.concat([Buffer.from("NBDMAGICIHAVEOPT"), wire.u16(3), result.output])), [
      [OPT.STARTTLS, REP.INVALID],
      [OPT.LIST, REP.SERVER],
      [OPT.LIST, REP.ACK],
    ]);
  });

  test("S06 a session inside TLS says the same whatever was said before it", () => {
    const script = [
      wire.option(OPT.SET_META, wire.metaData("vol", ["base:allocation"])),
      wire.go("vol"),
      wire.request({ command: CMD.READ, length: 512 }),
    ];
    const inside = runScript(script, { tls: "established" });
    const stream = new ServerStream(inside.output);
    assert.equal(stream.optionReply()?.type, REP.INVALID, "structured replies were not carried over");
    const before = runScript([wire.clientFlags(), wire.option(OPT.STRUCTURED), wire.option(OPT.STARTTLS)], {
      tls: "required",
    });
    assert.equal(before.tlsRequested, true);
    assert.deepEqual(types(before.output), [
      [OPT.STRUCTURED, REP.TLS_REQD],
      [OPT.STARTTLS, REP.ACK],
    ]);
  });

  test("S07 bytes behind STARTTLS in the same segment disconnect before the ACK", () => {
    for (const more of [wire.option(OPT.LIST), Buffer.from("\x16"), Buffer.alloc(5000)]) {
      const script = Buffer.concat([wire.clientFlags(), wire.option(OPT.STARTTLS), more]);
      const result = runScript([script], { tls: "required" });
      assert.deepEqual(result.ended, { kind: "ended", clean: false, code: "BYTES_AFTER_STARTTLS" });
      assert.equal(result.output.length, 18);
    }
  });
});

describe("any bytes", () => {
  const anyPiece = fc.oneof(
    fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
    fc
      .record({ type: fc.integer({ min: 0, max: 12 }), data: fc.uint8Array({ maxLength: 40 }) })
      .map(({ type, data }) => wire.option(type, data)),
    fc
      .record({ type: fc.integer({ min: 0, max: 12 }), length: fc.integer({ min: 0, max: 2 ** 32 - 1 }) })
      .map(({ type, length }) => wire.optionHeader(type, length)),
    fc
      .record({
        command: fc.integer({ min: 0, max: 9 }),
        flags: fc.integer({ min: 0, max: 63 }),
        cookie: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        offset: fc.oneof(
          fc.integer({ min: 0, max: 300 * 1024 }),
          fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        ),
        length: fc.oneof(fc.integer({ min: 0, max: 2048 }), fc.integer({ min: 0, max: 2 ** 32 - 1 })),
      })
      .map((fields) => wire.request(fields)),
    fc.constantFrom(
      wire.option(OPT.STRUCTURED),
      wire.option(OPT.SET_META, wire.metaData("vol", ["base:allocation"])),
      wire.go("vol"),
      wire.option(OPT.EXPORT_NAME, "vol"),
      wire.request({ command: CMD.WRITE, data: Buffer.alloc(1024, 3) }),
    ),
  );
  const anyStream = fc
    .record({ greeted: fc.boolean(), opened: fc.boolean(), pieces: fc.array(anyPiece, { maxLength: 25 }) })
    .map(({ greeted, opened, pieces }) =>
      Buffer.concat([
        ...(greeted ? [wire.clientFlags()] : []),
        ...(greeted && opened ? [wire.go("vol")] : []),
        ...pieces,
      ]),
    );

  test("give events or a clean end, the same however they are cut, and leave the export intact outside writes", () => {
    fc.assert(
      fc.property(
        anyStream,
        fc.array(fc.nat(), { maxLength: 6 }),
        fc.constantFrom("off" as const, "required" as const, "established" as const),
        (stream, cuts, tls) => {
          // S07 makes the end depend on what has arrived behind STARTTLS, as it must: leave that option to its test.
          fc.pre(tls !== "required" || !stream.includes(wire.option(OPT.STARTTLS)));
          const whole = runScript([stream], { tls });
          const positions = cuts.map((cut) => cut % (stream.length + 1)).toSorted((one, two) => one - two);
          const chunks: Buffer[] = [];
          let from = 0;
          for (const position of [...positions, stream.length]) {
            chunks.push(stream.subarray(from, position));
            from = position;
          }
          const cut = runScript(chunks, { tls });
          assert.ok(cut.output.equals(whole.output));
          assert.deepEqual(cut.ran, whole.ran);
          assert.deepEqual(cut.ended, whole.ended);
        },
      ),
      { numRuns: 5000 },
    );
  });

  test("never make the session hold more than it was given and one payload it was allowed", () => {
    fc.assert(
      fc.property(anyStream, (stream) => {
        const session = new NbdSession({ sink: new CollectingSink(), tls: "off" });
        let accepted = 0;
        session.receive(stream);
        for (let event = session.next(); event !== null; event = session.next()) {
          if (event.kind === "exportRequested") session.answerExport({ kind: "export", params: testExport });
          if (event.kind === "listRequested") session.answerList(["vol"]);
          if (event.kind === "payloadAnnounced") {
            accepted += 1;
            assert.ok(event.bytes <= testExport.payloadBytesMax);
            session.acceptPayload();
          }
        }
        assert.ok(accepted <= 1 || session.bufferedBytes === 0);
        assert.ok(session.bufferedBytes <= stream.length);
        assert.equal(session.next(), null);
      }),
      { numRuns: 2000 },
    );
  });
});
