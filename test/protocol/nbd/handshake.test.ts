/** Handshake cases of the catalogue (H..) that need no socket; each also with its bytes cut at every position. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import type { NbdExportParams } from "../../../protocol/nbd/export-params.ts";
import { nbdSessionLimits } from "../../../protocol/nbd/limits.ts";
import {
  runScript,
  runSplit,
  type ScriptOptions,
  type ScriptResult,
  testExport,
} from "./scripted-session.ts";
import * as wire from "./wire.ts";
import { CMD, OPT, REP, ServerStream } from "./wire.ts";

const list = wire.option(OPT.LIST);

/** Types of the option replies after the greeting. */
function repliesOf(result: ScriptResult): wire.OptionReply[] {
  const stream = new ServerStream(result.output);
  assert.equal(stream.greeting()?.flags, 3);
  return stream.optionReplies();
}

/** Runs options (after client flags) in every split; returns `[option, type]` of each reply. */
function haggle(parts: readonly Buffer[], options: ScriptOptions = {}): [number, number][] {
  return repliesOf(runSplit(Buffer.concat([wire.clientFlags(), ...parts]), options)).map((reply) => [
    reply.option,
    reply.type,
  ]);
}

/** LIST of the one test export as its two replies: proof that the parser is still in step. */
const listWorks: [number, number][] = [
  [OPT.LIST, REP.SERVER],
  [OPT.LIST, REP.ACK],
];

function endsWith(script: Uint8Array, code: string, options: ScriptOptions = {}): ScriptResult {
  const result = runSplit(script, options);
  assert.equal(result.ended?.clean, false);
  assert.equal(result.ended?.code, code);
  return result;
}

describe("NBD handshake", () => {
  test("H01 an unknown client flag disconnects", () => {
    for (const flags of [4, 7, 0x80000000, 0xffffffff]) {
      const result = endsWith(Buffer.concat([wire.clientFlags(flags), list]), "UNKNOWN_CLIENT_FLAG");
      assert.equal(result.output.length, 18);
    }
  });

  test("H02 without fixed newstyle LIST is answered ERR_INVALID", () => {
    const result = runSplit(
      Buffer.concat([wire.clientFlags(2), list, wire.option(OPT.STARTTLS), wire.go("vol")]),
    );
    assert.deepEqual(
      repliesOf(result).map((reply) => reply.type),
      [REP.INVALID, REP.INVALID, REP.INVALID],
    );
  });

  test("H03 a wrong option magic disconnects", () => {
    const bad = Buffer.from(list);
    bad[3] = 0;
    endsWith(Buffer.concat([wire.clientFlags(), bad]), "BAD_OPTION_MAGIC");
  });

  test("H04 unknown option is answered ERR_UNSUP and the next LIST works", () => {
    assert.deepEqual(haggle([wire.option(4), wire.option(11, "abc"), wire.option(0xdeadbeef), list]), [
      [4, REP.UNSUP],
      [11, REP.UNSUP],
      [0xdeadbeef, REP.UNSUP],
      ...listWorks,
    ]);
  });

  test("H05 an unknown option with 100 kB is skipped and answered ERR_UNSUP", () => {
    const script = Buffer.concat([wire.clientFlags(), wire.option(77, Buffer.alloc(100_000, 0x49)), list]);
    for (const chunks of [[script], [script.subarray(0, 50), script.subarray(50)]]) {
      assert.deepEqual(
        repliesOf(runScript(chunks)).map((reply) => [reply.option, reply.type]),
        [[77, REP.UNSUP], ...listWorks],
      );
    }
  });

  test("H06 option length 0xffffffff disconnects at the header", () => {
    for (const type of [77, OPT.GO, OPT.LIST, OPT.SET_META]) {
      endsWith(Buffer.concat([wire.clientFlags(), wire.optionHeader(type, 0xffffffff)]), "OPTION_TOO_LONG");
    }
  });

  test("H07 option length 33 MiB and 64 MiB + 1 without body disconnects at the header", () => {
    for (const length of [33 * 1024 * 1024, 64 * 1024 * 1024 + 1, nbdSessionLimits.optionDrainBytesMax + 1]) {
      endsWith(Buffer.concat([wire.clientFlags(), wire.optionHeader(77, length)]), "OPTION_TOO_LONG");
    }
  });

  test("H08 LIST with data is answered ERR_INVALID", () => {
    assert.deepEqual(haggle([wire.option(OPT.LIST, "x"), list]), [[OPT.LIST, REP.INVALID], ...listWorks]);
  });

  test("H09 ABORT with data is acknowledged, then closed", () => {
    const result = runSplit(Buffer.concat([wire.clientFlags(), wire.option(OPT.ABORT, "bye"), list]));
    assert.deepEqual(
      repliesOf(result).map((reply) => reply.type),
      [REP.ACK],
    );
    assert.deepEqual(result.ended, { kind: "ended", clean: true, code: "ABORTED" });
  });

  test("H10 GO whose name is longer than its data is answered ERR_INVALID", () => {
    const data = Buffer.concat([wire.u32(100), Buffer.from("vol"), wire.u16(0)]);
    assert.deepEqual(haggle([wire.option(OPT.GO, data), list]), [[OPT.GO, REP.INVALID], ...listWorks]);
  });

  test("H11 GO with name length 0xffffffff is answered ERR_INVALID", () => {
    const data = Buffer.concat([wire.u32(0xffffffff), Buffer.from("vol"), wire.u16(0)]);
    assert.deepEqual(haggle([wire.option(OPT.GO, data), list]), [[OPT.GO, REP.INVALID], ...listWorks]);
  });

  test("H12 GO with 0 or 3 bytes is answered ERR_INVALID", () => {
    assert.deepEqual(
      haggle([wire.option(OPT.GO), wire.option(OPT.GO, "abc"), wire.option(OPT.INFO, "ab"), list]),
      [[OPT.GO, REP.INVALID], [OPT.GO, REP.INVALID], [OPT.INFO, REP.INVALID], ...listWorks],
    );
  });

  test("H13 a wrong count of information requests, or bytes behind them, is answered ERR_INVALID", () => {
    const tooMany = Buffer.concat([wire.u32(3), Buffer.from("vol"), wire.u16(9), wire.u16(3)]);
    const junk = Buffer.concat([wire.infoData("vol", [3]), Buffer.from("!")]);
    assert.deepEqual(haggle([wire.option(OPT.GO, tooMany), wire.option(OPT.GO, junk), list]), [
      [OPT.GO, REP.INVALID],
      [OPT.GO, REP.INVALID],
      ...listWorks,
    ]);
  });

  test("H14 a name of 4,097 bytes is answered ERR_INVALID", () => {
    assert.deepEqual(haggle([wire.info("x".repeat(4097)), list]), [[OPT.INFO, REP.INVALID], ...listWorks]);
    endsWith(
      Buffer.concat([wire.clientFlags(), wire.option(OPT.EXPORT_NAME, "x".repeat(4097))]),
      "NAME_TOO_LONG",
    );
  });

  test("H15 a long unknown name is answered ERR_UNKNOWN with a short text of our own", () => {
    for (const length of [257, 1024, 4096]) {
      const result = runScript([Buffer.concat([wire.clientFlags(), wire.go("y".repeat(length)), list])]);
      const [first, ...rest] = repliesOf(result);
      assert.equal(first?.type, REP.UNKNOWN);
      assert.ok(first !== undefined && first.data.length <= 200 && !first.data.includes("yyy"));
      assert.deepEqual(
        rest.map((reply) => reply.type),
        [REP.SERVER, REP.ACK],
      );
    }
  });

  test("H16 an unknown export is answered ERR_UNKNOWN", () => {
    assert.deepEqual(haggle([wire.info("nope"), wire.go("nope"), wire.go(""), list]), [
      [OPT.INFO, REP.UNKNOWN],
      [OPT.GO, REP.UNKNOWN],
      [OPT.GO, REP.UNKNOWN],
      ...listWorks,
    ]);
  });

  test("H17 malformed names are ERR_INVALID, strange ones ERR_UNKNOWN", () => {
    const malformed = [
      Buffer.from("vol\0"),
      Buffer.from("\0"),
      Buffer.from([0xff, 0xfe]),
      Buffer.from([0xc3]),
    ];
    for (const name of malformed) {
      assert.deepEqual(haggle([wire.go(name), list]), [[OPT.GO, REP.INVALID], ...listWorks]);
      const byName = endsWith(
        Buffer.concat([wire.clientFlags(), wire.option(OPT.EXPORT_NAME, name)]),
        name.includes(0) ? "STRING_HAS_NUL" : "STRING_NOT_UTF8",
      );
      assert.deepEqual(byName.asked, []);
    }
    const strange = [
      "../x",
      "%2e%2e",
      "/etc/passwd",
      "vol.",
      "VOL",
      "Vol",
      "vol/",
      "./vol",
      "vol ",
      "\ufeffvol",
      "__proto__",
      "constructor",
    ];
    for (const name of strange) {
      assert.deepEqual(
        haggle([wire.go(name), list], { exports: Object.assign(Object.create(null), { vol: testExport }) }),
        [[OPT.GO, REP.UNKNOWN], ...listWorks],
      );
    }
    const slashes = runScript([Buffer.concat([wire.clientFlags(), wire.go("/".repeat(4096)), list])]);
    assert.equal(repliesOf(slashes)[0]?.type, REP.UNKNOWN);
  });

  test("H18 repeated and unknown information requests are ignored", () => {
    const result = runSplit(
      Buffer.concat([wire.clientFlags(), wire.info("vol", [3, 3, 1, 1, 99, 0, 0xffff])]),
    );
    const replies = repliesOf(result);
    assert.equal(replies.at(-1)?.type, REP.ACK);
    const types = replies.slice(0, -1).map((reply) => reply.data.readUInt16BE(0));
    assert.deepEqual(
      types.toSorted((a, b) => a - b),
      [0, 1, 3],
    );
  });

  test("H19 STARTTLS on a server without TLS is answered ERR_POLICY", () => {
    assert.deepEqual(haggle([wire.option(OPT.STARTTLS), list]), [[OPT.STARTTLS, REP.POLICY], ...listWorks]);
  });

  test("H20 STARTTLS with data is answered ERR_INVALID", () => {
    for (const tls of ["off", "required"] as const) {
      assert.deepEqual(haggle([wire.option(OPT.STARTTLS, "x")], { tls }), [[OPT.STARTTLS, REP.INVALID]]);
    }
  });

  test("H21 STRUCTURED_REPLY with data is answered ERR_INVALID and changes nothing", () => {
    const script = [
      wire.option(OPT.STRUCTURED, "x"),
      wire.option(OPT.SET_META, wire.metaData("vol", ["base:allocation"])),
    ];
    assert.deepEqual(haggle([...script, list]), [
      [OPT.STRUCTURED, REP.INVALID],
      [OPT.SET_META, REP.INVALID],
      ...listWorks,
    ]);
  });

  test("H22 STRUCTURED_REPLY twice is acknowledged twice", () => {
    const structured = wire.option(OPT.STRUCTURED);
    assert.deepEqual(haggle([structured, structured, list]), [
      [OPT.STRUCTURED, REP.ACK],
      [OPT.STRUCTURED, REP.ACK],
      ...listWorks,
    ]);
  });

  test("H23 metadata contexts before STRUCTURED_REPLY are answered ERR_INVALID", () => {
    const data = wire.metaData("vol", ["base:allocation"]);
    assert.deepEqual(haggle([wire.option(OPT.SET_META, data), wire.option(OPT.LIST_META, data), list]), [
      [OPT.SET_META, REP.INVALID],
      [OPT.LIST_META, REP.INVALID],
      ...listWorks,
    ]);
  });

  test("H24 overflowing metadata queries are answered ERR_INVALID", () => {
    const name = Buffer.concat([wire.u32(3), Buffer.from("vol")]);
    const cases = [
      Buffer.concat([name, wire.u32(0xffffffff)]),
      Buffer.concat([name, wire.u32(1), wire.u32(0xffffffff), Buffer.from("base:")]),
      Buffer.concat([name, wire.u32(1), wire.u32(6), Buffer.from("base:")]),
      Buffer.concat([name, wire.u32(2), wire.u32(5), Buffer.from("base:")]),
      Buffer.concat([name, wire.u32(0), Buffer.from("junk")]),
      Buffer.concat([wire.u32(0xfffffff0), Buffer.from("vol"), wire.u32(0)]),
      Buffer.alloc(2),
    ];
    const parts = [wire.option(OPT.STRUCTURED)];
    for (const data of cases) parts.push(wire.option(OPT.SET_META, data), wire.option(OPT.LIST_META, data));
    const expected: [number, number][] = [[OPT.STRUCTURED, REP.ACK]];
    for (let index = 0; index < cases.length; index += 1) {
      expected.push([OPT.SET_META, REP.INVALID], [OPT.LIST_META, REP.INVALID]);
    }
    assert.deepEqual(haggle([...parts, list]), [...expected, ...listWorks]);
  });

  test("H24 metadata queries too long to keep are skipped and answered ERR_TOO_BIG", () => {
    const queries = Array.from({ length: 2000 }, () => "x-splitsite:query");
    const script = Buffer.concat([
      wire.clientFlags(),
      wire.option(OPT.STRUCTURED),
      wire.option(OPT.SET_META, wire.metaData("vol", queries)),
      list,
    ]);
    assert.deepEqual(
      repliesOf(runScript([script])).map((reply) => reply.type),
      [REP.ACK, REP.TOO_BIG, REP.SERVER, REP.ACK],
    );
  });

  test("metadata contexts: exact, wildcard, unknown and none", () => {
    const names = (
      type: number,
      queries: readonly string[],
      params: NbdExportParams = testExport,
    ): string[] => {
      const result = runSplit(
        Buffer.concat([
          wire.clientFlags(),
          wire.option(OPT.STRUCTURED),
          wire.option(type, wire.metaData("vol", queries)),
        ]),
        { exports: { vol: params } },
      );
      const replies = repliesOf(result).slice(1);
      assert.equal(replies.at(-1)?.type, REP.ACK);
      return replies.slice(0, -1).map((reply) => reply.data.toString("utf8", 4));
    };
    const all = ["base:allocation"];
    assert.deepEqual(names(OPT.LIST_META, []), all);
    assert.deepEqual(names(OPT.LIST_META, ["base:"]), all);
    assert.deepEqual(names(OPT.LIST_META, ["base:allocation", "base:allocation", "x:y"]), all);
    assert.deepEqual(names(OPT.LIST_META, ["qemu:", "base:other", "nocolon", ""]), []);
    assert.deepEqual(names(OPT.SET_META, []), []);
    assert.deepEqual(names(OPT.SET_META, ["base:"]), []);
    assert.deepEqual(names(OPT.SET_META, ["qemu:dirty-bitmap:x", "base:allocation"]), all);
    assert.deepEqual(names(OPT.SET_META, all, { ...testExport, extents: false }), []);
  });

  test("H25 a thousand options disconnect, a lister's questions do not", () => {
    for (const one of [wire.option(77), wire.info("vol")]) {
      const script = Buffer.concat([wire.clientFlags(), ...Array.from({ length: 1000 }, () => one)]);
      const result = runScript([script]);
      assert.equal(result.ended?.code, "TOO_MANY_OPTIONS");
      const answered = repliesOf(result).filter((reply) => reply.type !== REP.INFO).length;
      assert.equal(answered, nbdSessionLimits.optionsMax);
    }
    const exports: Record<string, NbdExportParams> = {};
    for (let index = 0; index < 100; index += 1) exports[`vol${index}`] = testExport;
    const parts = [wire.clientFlags(), list];
    for (const name of Object.keys(exports)) parts.push(wire.info(name, [0, 1, 2, 3]));
    parts.push(wire.go("vol99"));
    const result = runScript([Buffer.concat(parts)], { exports });
    assert.equal(result.transmitting, true);
    // Repeating LIST does not raise the bound again.
    const lists = runScript([
      Buffer.concat([wire.clientFlags(), ...Array.from({ length: 1000 }, () => list)]),
    ]);
    assert.equal(lists.ended?.code, "TOO_MANY_OPTIONS");
  });

  test("H26 EXPORT_NAME of an unknown export disconnects without a byte", () => {
    const result = endsWith(
      Buffer.concat([wire.clientFlags(), wire.option(OPT.EXPORT_NAME, "nope")]),
      "EXPORT_REFUSED",
    );
    assert.equal(result.output.length, 18);
  });

  test("H27 EXPORT_NAME with and without NO_ZEROES is byte-exact", () => {
    for (const [flags, padding] of [
      [3, 0],
      [1, 124],
      [0, 124],
      [2, 0],
    ] as const) {
      const result = runSplit(Buffer.concat([wire.clientFlags(flags), wire.option(OPT.EXPORT_NAME, "vol")]));
      const expected = Buffer.concat([
        wire.u64(256 * 1024),
        wire.u16(0b1101_0110_1101),
        Buffer.alloc(padding),
      ]);
      assert.deepEqual(result.output.subarray(18), expected);
      assert.equal(result.transmitting, true);
    }
  });

  test("H30 an option after GO is a request with a bad magic", () => {
    for (const next of [list, wire.go("vol")]) {
      const result = endsWith(
        Buffer.concat([wire.clientFlags(), wire.go("vol"), next, Buffer.alloc(12)]),
        "BAD_REQUEST_MAGIC",
      );
      assert.equal(repliesOf(result).at(-1)?.type, REP.ACK);
    }
  });

  test("H30 INFO and GO report the same", () => {
    for (const wanted of [[], [3], [0, 1, 2, 3, 7]]) {
      const result = runSplit(
        Buffer.concat([wire.clientFlags(), wire.info("vol", wanted), wire.go("vol", wanted)]),
      );
      const replies = repliesOf(result);
      const half = replies.length / 2;
      const datas = replies.map((reply) => `${reply.type} ${reply.data.toString("hex")}`);
      assert.deepEqual(datas.slice(0, half), datas.slice(half));
      assert.deepEqual(result.asked, ["describe vol", "open vol"]);
    }
  });

  test("H32 nothing is opened before GO", () => {
    const meta = wire.metaData("vol", ["base:allocation"]);
    const result = runSplit(
      Buffer.concat([
        wire.clientFlags(),
        list,
        wire.info("vol"),
        wire.option(OPT.STRUCTURED),
        wire.option(OPT.LIST_META, meta),
        wire.option(OPT.SET_META, meta),
        wire.option(OPT.ABORT),
      ]),
    );
    assert.deepEqual(result.asked, ["describe vol", "describe vol", "describe vol"]);
  });

  test("H33 any sequence of options leaves the parser in step", () => {
    const anyOption = fc.oneof(
      fc.constantFrom(
        list,
        wire.info("vol", [3]),
        wire.info("nope"),
        wire.go("nope"),
        wire.option(OPT.GO, "junk"),
        wire.option(OPT.STRUCTURED),
        wire.option(OPT.STARTTLS),
        wire.option(OPT.SET_META, wire.metaData("vol", ["base:allocation"])),
        wire.option(OPT.LIST_META, wire.metaData("nope", [])),
      ),
      fc
        .record({ type: fc.integer({ min: 11, max: 2 ** 32 - 1 }), data: fc.uint8Array({ maxLength: 64 }) })
        .map(({ type, data }) => wire.option(type, data)),
    );
    fc.assert(
      fc.property(fc.array(anyOption, { maxLength: 40 }), (options) => {
        const script = Buffer.concat([
          wire.clientFlags(),
          ...options,
          wire.go("vol"),
          wire.request({ command: CMD.FLUSH, cookie: 42 }),
        ]);
        const result = runScript([script]);
        assert.equal(result.transmitting, true);
        assert.deepEqual(result.ran, ["3 0 0 0"]);
      }),
      { numRuns: 300 },
    );
  });
});
