/**
 * Values rather than bytes: whatever may be written is read back the same; any bit flipped, byte cut or appended in a
 * format with a checksum is refused; JSON with one part replaced by anything is another whole value or refused.
 * SPLITSITE_FUZZ_RUNS sets the runs of each property (10,000).
 */
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import fc from "fast-check";
import { parseSubjectAltNames } from "../../block/nbd-tls.ts";
import { parseStandbyDocument } from "../../gateway/state.ts";
import { decodeMarkerSlot, encodeMarkerSlot } from "../../image/marker.ts";
import { decodeHead, encodeHead, headPairsMax } from "../../journal/head.ts";
import { decodeSlot, encodeSlotInto, slotBytes } from "../../journal/watermark-slot.ts";
import { decodeFrame } from "../../protocol/frame.ts";
import { parseHandoverRecord } from "../../protocol/handover.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { readDocument, writeDocument } from "../../runtime/durable-document.ts";
import { OperationalError } from "../../runtime/errors.ts";
import { sitesInAltNames } from "../../runtime/peer-identity.ts";
import {
  formatDurationExact,
  formatRateExact,
  formatSizeExact,
  parseDuration,
  parseRate,
  parseSize,
} from "../../runtime/settings/units.ts";
import { parseAgentGroupState } from "../../site-agent/group/state.ts";
import { arbitraryBytes } from "../protocol/naive/arbitrary.ts";
import { frameTarget, headTarget, markerTarget, watermarkTarget } from "./targets/formats.ts";
import { controlTarget, documentsTarget, overrideTarget } from "./targets/json.ts";

const numRuns = Number(process.env["SPLITSITE_FUZZ_RUNS"] ?? 10_000);
const count = fc.oneof(fc.nat(), fc.maxSafeNat(), fc.constantFrom(0, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1));
const position = fc.record(
  { sequence: count, chain: arbitraryBytes(32), dataBytesTotal: count, closedAtMs: count },
  { noNullPrototype: true },
);

describe("what may be written is read back the same", () => {
  test("head values", () => {
    const head = fc
      .tuple(arbitraryBytes(16), position, fc.array(fc.tuple(count, arbitraryBytes(32)), { maxLength: 8 }))
      .map(([lineage, at, pairs]) => {
        const sequences = new Set(pairs.map(([sequence]) => sequence).filter((each) => each < at.sequence));
        const chains = pairs.map(([, chain]) => chain);
        return {
          lineage,
          position: at,
          pairs: [...sequences]
            .toSorted((a, b) => a - b)
            .map((sequence, index) => ({ sequence, chain: chains[index]! })),
        };
      });
    fc.assert(
      fc.property(head, (value) => {
        assert.ok(value.pairs.length <= headPairsMax);
        assert.deepEqual(decodeHead(encodeHead(value)), value);
      }),
      { numRuns },
    );
  });

  test("watermark slots", () => {
    const slot = fc
      .record({
        kind: fc.constantFrom("durable" as const, "answered" as const),
        clean: fc.boolean(),
        lineage: arbitraryBytes(16),
        generation: count,
        boot: arbitraryBytes(16),
        position,
      })
      .map((value) => ({ ...value, clean: value.clean && value.kind === "durable" }));
    const bytes = Buffer.alloc(slotBytes);
    fc.assert(
      fc.property(slot, (value) => {
        encodeSlotInto(value, bytes);
        assert.deepEqual(decodeSlot(bytes), value);
      }),
      { numRuns },
    );
  });

  test("marker slots", () => {
    const marker = fc
      .tuple(arbitraryBytes(16), position, count, count)
      .map(([lineage, { sequence, chain, dataBytesTotal, closedAtMs }, ahead, generation]) => ({
        state: {
          lineage,
          applied: { sequence, chain, dataBytesTotal, timeMs: closedAtMs },
          applyingLast: Math.min(Number.MAX_SAFE_INTEGER, sequence + ahead),
        },
        generation,
      }));
    fc.assert(
      fc.property(marker, ({ state, generation }) => {
        assert.deepEqual(decodeMarkerSlot(encodeMarkerSlot(state, generation)), { state, generation });
      }),
      { numRuns: Math.ceil(numRuns / 2) },
    );
  });

  test("sizes, rates and times", () => {
    // Up to a pebibyte: what a configuration can mean.
    const amount = fc.oneof(
      fc.nat(),
      fc.nat(2 ** 20).map((n) => n * 1024),
      fc.integer({ min: 0, max: 2 ** 40 }),
    );
    fc.assert(
      fc.property(amount, (value) => {
        assert.equal(parseSize(formatSizeExact(value)), value);
        assert.equal(parseRate(formatRateExact(value)), value);
        assert.equal(parseDuration(formatDurationExact(value)), value);
      }),
      { numRuns },
    );
  });

  test("site names in certificates, beside names that try to look like one", () => {
    // As Node prints them: a value with a separator or a quote is quoted as JSON.
    const odd = fc.oneof(
      fc.constantFrom(
        "a, URI:splitsite:site:evil",
        'b", URI:splitsite:site:evil',
        "\\",
        '"',
        "c\\",
        ", ",
        "",
      ),
      fc.string({ maxLength: 12 }).filter((text) => /^[\x20-\x7e]*$/.test(text)),
    );
    const quoted = (value: string): string => (/[",\\]/.test(value) ? JSON.stringify(value) : value);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom("DNS", "URI", "email"), odd), { maxLength: 4 }),
        fc.nat(4),
        (names, at) => {
          const entries = names.map(([type, value]) => `${type}:${quoted(value)}`);
          entries.splice(at, 0, "URI:splitsite:site:dr");
          const text = entries.join(", ");
          const legal = sitesInAltNames(text).filter((site) => /^[a-z0-9][a-z0-9._-]*$/.test(site));
          assert.deepEqual(legal, ["dr"]);
          const expected = [...names.map(([, value]) => value)];
          expected.splice(at, 0, "splitsite:site:dr");
          assert.deepEqual(
            parseSubjectAltNames(text),
            expected.filter((value) => value !== ""),
          );
        },
      ),
      { numRuns },
    );
  });
});

describe("nothing in a format with a checksum is ignored", () => {
  for (const target of [frameTarget, headTarget, watermarkTarget, markerTarget]) {
    test(`${target.name}: every flipped bit, every cut and every byte behind the end`, async () => {
      for (const seed of await target.seeds()) {
        const bytes = Buffer.from(seed);
        const refused = (input: Uint8Array, what: string): void => {
          const outcome = target.run(input);
          // Another packing of the very same body: LZ4 can name a repeated byte in more than one way.
          if (outcome === "ok-lz4") assert.deepEqual(decodeFrame(input), decodeFrame(seed), what);
          else assert.doesNotMatch(outcome, /^ok/, `${target.name}: ${what} was taken`);
        };
        assert.match(target.run(bytes), /^ok/);
        // The largest head has 10 KiB: every bit of its ends, some of its middle.
        for (let bit = 0; bit < bytes.length * 8; bit += bit < 2048 || bit > bytes.length * 8 - 64 ? 1 : 7) {
          bytes[bit >> 3]! ^= 1 << (bit & 7);
          refused(bytes, `bit ${bit}`);
          bytes[bit >> 3]! ^= 1 << (bit & 7);
        }
        for (let length = 0; length < bytes.length; length += length < 512 ? 1 : 61)
          refused(bytes.subarray(0, length), `${length} bytes`);
        // Slots are read from their page, whose rest is spacing.
        if (target === frameTarget || target === headTarget)
          refused(Buffer.concat([bytes, Buffer.alloc(1)]), "a byte more");
      }
    });
  }

  test("durable documents: every flipped bit is damage or changes nothing, every cut is damage", async () => {
    const seeds = (await documentsTarget.seeds()).map(
      (bytes) => JSON.parse(Buffer.from(bytes).toString()) as unknown,
    );
    const folder = await mkdtemp(join(tmpdir(), "splitsite-flips-"));
    try {
      for (const [value, parse] of [
        [seeds[0], parseAgentGroupState],
        [seeds[3], parseHandoverRecord],
      ] as const) {
        const path = join(folder, "document.json");
        await writeDocument(systemDisk, path, value);
        assert.deepEqual(await readDocument<unknown>(systemDisk, path, parse), value);
        const whole = await readFile(path);
        const read = async (bytes: Uint8Array): Promise<string> => {
          try {
            const disk = { ...systemDisk, readFile: () => Promise.resolve(bytes) };
            assert.deepEqual(await readDocument<unknown>(disk, path, parse), value);
            return "same";
          } catch (error) {
            assert.ok(error instanceof OperationalError && error.code === "DOCUMENT_DAMAGED", String(error));
            return "damaged";
          }
        };
        for (let bit = 0; bit < whole.length * 8; bit += 1) {
          const flipped = Buffer.from(whole);
          flipped[bit >> 3]! ^= 1 << (bit & 7);
          await read(flipped);
        }
        // The last byte is a line end.
        for (let length = 0; length < whole.length - 1; length += 1)
          assert.equal(await read(whole.subarray(0, length)), "damaged", `${length} bytes`);
      }
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe("JSON with one part replaced", () => {
  const odd = fc.oneof(
    fc.constantFrom<unknown>(
      null,
      true,
      -1,
      0,
      1.5,
      2 ** 53,
      -0,
      1e308,
      "",
      "../x",
      "x".repeat(5000),
      [],
      {},
      [[]],
      { length: 2 ** 32 },
      "00112233-4455-6677-8899-aabbccddeeff",
    ),
    fc.jsonValue(),
  );
  /** `value` with the part that `choice` falls on replaced; objects may also gain a strange key. */
  const replaced = (value: unknown, choice: number, part: unknown): unknown => {
    if (typeof value !== "object" || value === null || choice % 7 === 0) return part;
    const keys = Object.keys(value);
    if (keys.length === 0 || choice % 11 === 1)
      return Object.assign(JSON.parse('{"__proto__": {"polluted": 1}}'), value);
    const key = keys[choice % keys.length]!;
    const copy = (Array.isArray(value) ? [...value] : { ...value }) as Record<string, unknown>;
    copy[key] = replaced(copy[key], Math.floor(choice / keys.length), part);
    return copy;
  };

  for (const target of [controlTarget, documentsTarget, overrideTarget]) {
    test(`${target.name}: another whole value, or refused by its code`, async () => {
      const seeds = (await target.seeds()).map(
        (bytes) => JSON.parse(Buffer.from(bytes).toString("utf8")) as unknown,
      );
      const outcomes = new Map<string, number>();
      fc.assert(
        fc.property(fc.constantFrom(...seeds), fc.nat(), odd, (seed, choice, part) => {
          const outcome = target.run(Buffer.from(JSON.stringify(replaced(seed, choice, part))));
          outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
        }),
        { numRuns },
      );
      assert.ok(outcomes.size >= 2);
      assert.equal(Reflect.get({}, "polluted"), undefined);
    });
  }

  test("nesting as deep as the length allows is refused, not followed", () => {
    for (const target of [controlTarget, documentsTarget, overrideTarget]) {
      const deep = Math.floor(target.inputBytesMax / 8);
      for (const text of ["[".repeat(deep * 8), "[".repeat(deep) + "]".repeat(deep), `{"a":`.repeat(deep)])
        assert.match(target.run(Buffer.from(text)), /MALFORMED|NOT_JSON/);
    }
  });
});

describe("readers that take or throw more than they say", () => {
  const bytes = (sequence: number, applyingLast: number): Buffer => {
    const at = { sequence, chain: new Uint8Array(32), dataBytesTotal: 0, timeMs: 0 };
    return Buffer.from(encodeMarkerSlot({ lineage: new Uint8Array(16), applied: at, applyingLast }, 1));
  };

  test("a marker slot with a number beyond 2^53 is no slot", () => {
    const slot = bytes(1, 1);
    slot[32] = 0xff;
    markerTarget.repair?.(slot);
    assert.equal(decodeMarkerSlot(slot), undefined);
  });

  test("a marker slot whose intention ends before its position is no slot", () => {
    assert.equal(decodeMarkerSlot(bytes(9, 5)), undefined);
  });

  test("a standby document names each volume once, by an absolute path, under a token of epoch 1 or more", async () => {
    const seed = JSON.parse(Buffer.from((await documentsTarget.seeds())[3]!).toString()) as Record<
      string,
      unknown
    >;
    const [row] = seed["volumes"] as Record<string, unknown>[];
    for (const wrong of [
      { volumes: [row, row] },
      { volumes: [{ ...row, imagePath: "data.img" }] },
      { volumes: [{ ...row, number: 65_536 }] },
      { token: { epoch: 0, owner: "primary" } },
    ])
      assert.throws(() => parseStandbyDocument({ ...seed, ...wrong }), JSON.stringify(wrong));
  });
});
