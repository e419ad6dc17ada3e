/**
 * Conversations that follow the grammar of NBD, with mistakes in it: each must come to what a second reading of the
 * specification says, in any cuts. SPLITSITE_FUZZ_RUNS sets the number (10,000).
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import * as wire from "../protocol/nbd/wire.ts";
import { OPT } from "../protocol/nbd/wire.ts";
import { checkConversation, nbdRequests } from "./targets/nbd.ts";
import { fuzzExports } from "./targets/nbd-shell.ts";

const numRuns = Number(process.env["SPLITSITE_FUZZ_RUNS"] ?? 10_000);

const name = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom("vol", "erp/data", "") },
  {
    weight: 1,
    arbitrary: fc.constantFrom("nobody", "vol\0", "x".repeat(4096), "x".repeat(4097), "\ufeffvol"),
  },
);
const query = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom("base:allocation", "base:", "qemu:dirty") },
  { weight: 1, arbitrary: fc.constantFrom("", "base:allocation\0", "base:allocation2", "x".repeat(4097)) },
);
const option: fc.Arbitrary<Buffer> = fc.oneof(
  fc.constantFrom(
    wire.option(OPT.STRUCTURED),
    wire.option(OPT.STRUCTURED),
    wire.option(OPT.LIST),
    wire.option(OPT.STARTTLS),
    wire.option(OPT.LIST, "x"),
    wire.option(OPT.STRUCTURED, "x"),
    wire.option(OPT.STARTTLS, "x"),
    wire.option(OPT.GO),
    wire.option(OPT.GO, Buffer.alloc(16 * 1024 + 1)),
    wire.option(99, "data"),
  ),
  fc
    .tuple(
      fc.constantFrom(OPT.SET_META, OPT.SET_META, OPT.LIST_META),
      name,
      fc.array(query, { maxLength: 3 }),
      fc.nat(9),
    )
    .map(([type, export_, queries, spoil]) => {
      const data = wire.metaData(export_, queries);
      if (spoil === 0) return wire.option(type, Buffer.concat([data, Buffer.alloc(1)]));
      return wire.option(type, spoil === 1 ? data.subarray(0, -1) : data);
    }),
  fc.tuple(name, fc.array(fc.nat(5), { maxLength: 4 }), fc.nat(9)).map(([export_, wanted, spoil]) => {
    const data = wire.infoData(export_, wanted);
    return wire.option(OPT.INFO, spoil === 0 ? data.subarray(0, -1) : data);
  }),
);
const opening = fc.oneof(
  name.map((export_) => wire.go(export_, [3])),
  name.map((export_) => wire.option(OPT.EXPORT_NAME, export_)),
);
const number = (...usual: number[]) =>
  fc.oneof(
    { weight: 5, arbitrary: fc.constantFrom(...usual) },
    { weight: 1, arbitrary: fc.nat(2 ** 32 - 1) },
  );
const anyRequest: fc.Arbitrary<Buffer> = fc
  .record({
    command: fc.oneof(
      { weight: 30, arbitrary: fc.nat(7).filter((n) => n !== 2) },
      fc.constantFrom(2, 8, 256, 65_535),
    ),
    flags: fc.oneof({ weight: 3, arbitrary: fc.constantFrom(0, 1) }, fc.nat(31), fc.nat(65_535)),
    cookie: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    offset: fc.oneof(
      number(0, 512, 1024, 4096, 256 * 1024 - 512, 256 * 1024, 1),
      fc.bigInt({ min: 2n ** 52n, max: 2n ** 64n - 1n }),
    ),
    length: number(0, 512, 1024, 4096, 65_536, 66_048, 1, 131_072, 131_073, 2 ** 32 - 512),
  })
  .map((fields) => {
    // A payload as long as announced where that is short; else the requests behind it are the payload.
    const data =
      fields.command === 1 && fields.length <= 4096 ? Buffer.alloc(fields.length, 0x33) : undefined;
    return wire.request(data === undefined ? fields : { ...fields, data });
  });
const cutsOf = (cuts: readonly number[], length: number): number[] =>
  cuts.map((cut) => cut % (length + 1)).toSorted((a, b) => a - b);

describe("NBD conversations come to what the specification says", () => {
  test("from the client flags to the last request", (context) => {
    const ends = new Map<string, number>();
    fc.assert(
      fc.property(
        fc.constantFrom(3, 3, 3, 1, 2, 0, 7),
        fc.array(option, { maxLength: 8 }),
        fc.option(opening),
        fc.array(anyRequest, { maxLength: 6 }),
        fc.constantFrom("off" as const, "off" as const, "required" as const, "established" as const),
        fc.nat(3),
        fc.array(fc.nat(), { maxLength: 5 }),
        (flags, options, open, requests, mode, params, cuts) => {
          const input = Buffer.concat([
            ...(mode === "established" ? [] : [wire.clientFlags(flags)]),
            ...options,
            ...(open === null ? [] : [open]),
            ...requests,
          ]);
          const end = checkConversation(input, cutsOf(cuts, input.length), mode, fuzzExports[params]!);
          ends.set(end, (ends.get(end) ?? 0) + 1);
        },
      ),
      { numRuns },
    );
    context.diagnostic([...ends].map(([end, count]) => `${end} ${count}`).join(", "));
    assert.ok((ends.get("TRANSMITTING") ?? 0) > numRuns / 50 && ends.size >= 6, "most never got anywhere");
  });

  test("however many options there are: the bound grows once with a list and ends the session", () => {
    const cheap = fc.constantFrom(
      wire.option(OPT.LIST),
      wire.option(99),
      wire.option(OPT.STRUCTURED),
      wire.info("vol"),
    );
    fc.assert(
      fc.property(fc.array(cheap, { minLength: 55, maxLength: 240, size: "max" }), (options) => {
        const input = Buffer.concat([wire.clientFlags(), ...options]);
        checkConversation(input, [input.length >> 1], "off", fuzzExports[0]!);
      }),
      { numRuns: Math.ceil(numRuns / 50) },
    );
  });

  test("requests alone, in any cuts", () => {
    fc.assert(
      fc.property(fc.array(anyRequest, { minLength: 1, maxLength: 12 }), (requests) => {
        nbdRequests.run(Buffer.concat(requests));
      }),
      { numRuns },
    );
  });
});
