/** What a session may say once it is inside TLS, whatever the client asks: nothing that belongs before it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { runScript } from "../protocol/nbd/scripted-session.ts";
import * as wire from "../protocol/nbd/wire.ts";
import { OPT, REP, ServerStream } from "../protocol/nbd/wire.ts";

test("S05 inside TLS nothing is ever answered TLS_REQD, before TLS nothing but that, ACK and INVALID", () => {
  const anyOption = fc.oneof(
    fc.constantFrom(
      wire.option(OPT.LIST),
      wire.option(OPT.STARTTLS),
      wire.option(OPT.STARTTLS, "x"),
      wire.option(OPT.STRUCTURED),
      wire.info("vol"),
      wire.go("nope"),
      wire.option(OPT.SET_META, wire.metaData("vol", ["base:allocation"])),
    ),
    fc
      .record({ type: fc.integer({ min: 3, max: 20 }), data: fc.uint8Array({ maxLength: 40 }) })
      .map(({ type, data }) => wire.option(type, data)),
  );
  let answers = 0;
  fc.assert(
    fc.property(fc.array(anyOption, { minLength: 1, maxLength: 30 }), (options) => {
      // A legal GO among the options would begin transmission, where options are requests.
      const inside = new ServerStream(runScript(options, { tls: "established", exports: {} }).output);
      for (const reply of inside.optionReplies()) {
        answers += 1;
        assert.notEqual(reply.type, REP.TLS_REQD);
      }
      const outside = runScript([wire.clientFlags(), ...options], { tls: "required", exports: {} });
      const plain = new ServerStream(outside.output);
      plain.greeting();
      for (const reply of plain.optionReplies()) {
        const startTls = reply.option === OPT.STARTTLS && [REP.ACK, REP.INVALID].includes(reply.type);
        assert.ok(reply.type === REP.TLS_REQD || startTls, `${reply.option}: ${reply.type.toString(16)}`);
      }
      assert.deepEqual(outside.asked, []);
    }),
    { numRuns: 1_000 },
  );
  assert.ok(answers > 1_000);
});
