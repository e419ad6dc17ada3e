/** The chunk: round trips, a naive second decoder, the format page's bytes, and damage of every byte. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import type { BlockRun, ChunkInput } from "../../../image/history/chunk.ts";
import {
  blockIn,
  chunkBlocksMax,
  chunkHeadLength,
  chunkRunsMax,
  decodeChunkBlocks,
  decodeChunkHead,
  encodeChunk,
} from "../../../image/history/chunk.ts";
import { bytesEqual, bytesFromHex } from "../../../protocol/ids.ts";
import { RemoteProtocolError } from "../../../protocol/remote-error.ts";
import { repositoryPath } from "../../support/tree.ts";

const lineage = bytesFromHex("00112233445566778899aabbccddeeff")!;

function decode(bytes: Uint8Array) {
  const head = decodeChunkHead(bytes);
  const at = chunkHeadLength(bytes);
  return { head, blocks: decodeChunkBlocks(head, bytes.subarray(at, at + head.storedBytes)) };
}

/** Written from the format page alone, without the product's readers. */
function naiveDecode(bytes: Uint8Array) {
  const all = Buffer.from(bytes);
  const count = all.readUInt16BE(6);
  const end = 120 + 16 * count;
  const covered = Buffer.concat([all.subarray(0, 52), all.subarray(56, end)]);
  assert.equal(all.toString("latin1", 0, 4), "SSBI");
  assert.equal(all[4], 1);
  assert.equal(all.readUInt32BE(52), crc32(covered));
  const runs: BlockRun[] = [];
  for (let at = 120; at < end; at += 16) {
    runs.push({
      volume: all.readUInt16BE(at),
      kind: all.readUInt16BE(at + 2) === 1 ? "data" : "zeroes",
      blocks: all.readUInt32BE(at + 4),
      first: Number(all.readBigUInt64BE(at + 8)),
    });
  }
  const raw = all.readUInt32BE(44);
  const stored = all.subarray(end, end + all.readUInt32BE(48));
  if (stored.length === raw) {
    const digest = createHash("sha256")
      .update(Buffer.concat([all.subarray(0, 52), all.subarray(56, 104), all.subarray(120, end), stored]))
      .digest();
    assert.ok(bytesEqual(digest.subarray(0, 16), all.subarray(104, 120)));
  }
  return {
    first: Number(all.readBigUInt64BE(24)),
    last: Number(all.readBigUInt64BE(32)),
    number: all.readUInt32BE(40),
    isLast: all[5] === 1,
    timeMs: Number(all.readBigUInt64BE(96)),
    runs,
  };
}

const number = fc.integer({ min: 0, max: 2 ** 48 });
const chunks: fc.Arbitrary<ChunkInput> = fc
  .record({
    first: fc.integer({ min: 1, max: 2 ** 40 }),
    length: fc.nat(1000),
    number: fc.nat(2 ** 32 - 1),
    isLast: fc.boolean(),
    dataBytesTotal: number,
    timeMs: number,
    chain: fc.uint8Array({ minLength: 32, maxLength: 32 }),
    shapes: fc.array(
      fc.record({
        up: fc.nat(1),
        gap: fc.nat(2 ** 20),
        blocks: fc.integer({ min: 1, max: 6 }),
        zeroes: fc.boolean(),
      }),
      { maxLength: 10 },
    ),
    noise: fc.boolean(),
    seed: fc.nat(255),
  })
  .map((shape) => {
    const runs: BlockRun[] = [];
    let volume = 0;
    let at = 0;
    for (const { up, gap, blocks, zeroes } of shape.shapes) {
      if (up === 1) at = 0;
      volume += up;
      runs.push({ volume, kind: zeroes ? "zeroes" : "data", first: at + gap, blocks });
      at += gap + blocks;
    }
    const size = runs.reduce((sum, run) => sum + (run.kind === "data" ? run.blocks * 4096 : 0), 0);
    const blocks = new Uint8Array(size).fill(shape.seed);
    if (shape.noise)
      for (let i = 0; i < size; i += 1) blocks[i] = (Math.imul(i + shape.seed, 2654435761) >>> 13) & 255;
    const { chain, dataBytesTotal, timeMs } = shape;
    const position = { sequence: shape.first + shape.length, chain, dataBytesTotal, timeMs };
    return {
      set: { lineage, first: shape.first, position },
      number: shape.number,
      isLast: shape.isLast,
      runs,
      blocks,
    };
  });

test("a chunk is read back as it was written, by the naive twin too", () => {
  fc.assert(
    fc.property(chunks, fc.constantFrom("lz4" as const, "none" as const), (input, compression) => {
      const bytes = encodeChunk(input, compression);
      assert.equal(bytes.byteLength % 512, 0);
      const { head, blocks } = decode(bytes);
      assert.deepEqual(
        { set: { lineage: head.lineage, first: head.first, position: head.position }, runs: head.runs },
        { set: input.set, runs: input.runs },
      );
      assert.deepEqual([head.number, head.isLast], [input.number, input.isLast]);
      assert.ok(bytesEqual(blocks, input.blocks));
      assert.deepEqual(naiveDecode(bytes), {
        first: input.set.first,
        last: input.set.position.sequence,
        number: input.number,
        isLast: input.isLast,
        timeMs: input.set.position.timeMs,
        runs: input.runs,
      });
      let at = 0;
      for (const run of input.runs) {
        for (let block = 0; block < run.blocks; block += 1) {
          const found = blockIn(head, blocks, run.volume, run.first + block);
          if (run.kind === "zeroes") assert.equal(found, "zeroes");
          else assert.ok(bytesEqual(found as Uint8Array, input.blocks.subarray(at, at + 4096)));
          if (run.kind === "data") at += 4096;
        }
        const after = blockIn(head, blocks, run.volume, run.first + run.blocks);
        const next = input.runs.some(
          (other) => other.volume === run.volume && other.first === run.first + run.blocks,
        );
        assert.equal(after !== undefined, next);
      }
    }),
    { numRuns: 200 },
  );
});

test("any flipped bit is refused, or lies in the padding and changes nothing", () => {
  fc.assert(
    fc.property(
      chunks,
      fc.constantFrom("lz4" as const, "none" as const),
      fc.nat(),
      (input, compression, where) => {
        const bytes = encodeChunk(input, compression);
        const { head } = decode(bytes);
        const end = chunkHeadLength(bytes) + head.storedBytes;
        // Heads are short beside payloads: half of the flips go there.
        const bit = where % ((where % 2 === 0 ? chunkHeadLength(bytes) : bytes.byteLength) * 8);
        bytes[bit >> 3]! ^= 1 << (bit & 7);
        let blocks: Uint8Array;
        try {
          blocks = decode(bytes).blocks;
        } catch (error) {
          assert.ok(error instanceof RemoteProtocolError, String(error));
          return;
        }
        // LZ4 knows several spellings of the same bytes: what counts is what comes out.
        assert.ok(bytesEqual(blocks, input.blocks));
        assert.ok(bit >> 3 >= end || head.storedBytes < head.rawBytes, `bit ${bit} was believed`);
      },
    ),
    { numRuns: 2_000 },
  );
});

test("a chunk cut anywhere is refused", () => {
  fc.assert(
    fc.property(chunks, fc.nat(), (input, where) => {
      const bytes = encodeChunk(input, "none");
      const end = chunkHeadLength(bytes) + decodeChunkHead(bytes).storedBytes;
      assert.throws(() => decode(bytes.slice(0, where % end)), RemoteProtocolError);
    }),
  );
});

test("the worked example of the format page is a chunk, and today's code writes these bytes", () => {
  const page = readFileSync(repositoryPath("docs/formats/before-images.md"), "utf8");
  const example = page.match(/```hex\n([\s\S]*?)```/)![1]!;
  const bytes = bytesFromHex(example.replaceAll(/#.*$/gm, "").replaceAll(/\s/g, ""))!;
  const position = {
    sequence: 812,
    chain: new Uint8Array(32).fill(0xc4),
    dataBytesTotal: 3_326_000,
    timeMs: 1_772_446_446_000,
  };
  const input: ChunkInput = {
    set: { lineage, first: 807, position },
    number: 0,
    isLast: true,
    runs: [
      { volume: 0, kind: "zeroes", first: 256, blocks: 16 },
      { volume: 1, kind: "zeroes", first: 2_097_152, blocks: 1 },
    ],
    blocks: new Uint8Array(0),
  };
  const written = encodeChunk(input, "lz4");
  assert.equal(
    Buffer.from(written.subarray(0, bytes.byteLength)).toString("hex"),
    Buffer.from(bytes).toString("hex"),
  );
  assert.ok(written.subarray(bytes.byteLength).every((byte) => byte === 0));
  assert.deepEqual(decodeChunkHead(bytes).runs, input.runs);
  assert.ok(page.includes(`${chunkRunsMax.toLocaleString("en-US")} runs`));
  assert.equal(chunkBlocksMax * 4096, 256 * 1024);
});
