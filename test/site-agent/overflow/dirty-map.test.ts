/** The dirty map against a plain set, what a record touches, and both notes against a reader with no code of theirs. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import { decodeWaymark, encodeWaymark, waymarkSpan, waymarksOf } from "../../../journal/waymark.ts";
import { sliceFrame } from "../../../protocol/frame-split.ts";
import type { BlockRecord } from "../../../protocol/record.ts";
import { RemoteProtocolError } from "../../../protocol/remote-error.ts";
import { DirtyMap, pageBytes, pageChunks } from "../../../site-agent/overflow/dirty-map.ts";
import {
  decodeOverflow,
  decodePage,
  digestOfPages,
  encodeOverflow,
  encodePage,
  overflowNumber,
  pageNumber,
} from "../../../site-agent/overflow/notes.ts";
import { readNotes } from "../../../site-agent/overflow/overflow.ts";
import { touchedBy } from "../../../site-agent/overflow/touched.ts";
import { nextFrame, origin } from "../../journal/support/scratch-log.ts";
import { SeededRandom, seedFromEnvironment } from "../../support/seeded.ts";
import { repositoryPath } from "../../support/tree.ts";

const seed = seedFromEnvironment();
const mebibyte = 2 ** 20;

test("the map holds exactly the chunks that were touched, and its changed pages carry them over", () => {
  const touch = fc.record({
    volume: fc.integer({ min: 0, max: 2 }),
    // Around the border of the first two pages, where a range goes over it.
    start: fc.integer({ min: (pageChunks - 5) * 2048, max: (pageChunks + 5) * 2048 }).map((n) => n * 512),
    length: fc.integer({ min: 0, max: 10 * 2048 }).map((n) => n * 512),
  });
  fc.assert(
    fc.property(fc.array(fc.oneof(touch, fc.constant("take" as const)), { maxLength: 40 }), (steps) => {
      const map = new DirtyMap();
      const stored = new Map<number, Uint8Array>();
      const wanted = new Set<string>();
      const take = (): void => {
        for (const page of map.takeChanged()) stored.set(pageNumber(page), encodePage(page));
      };
      for (const step of steps) {
        if (step === "take") {
          take();
          assert.deepEqual(map.takeChanged(), [], "nothing has changed since");
          continue;
        }
        map.touch(step.volume, step.start, step.start + step.length);
        for (let at = step.start; at < step.start + step.length; at += 512)
          wanted.add(`${step.volume} ${Math.floor(at / mebibyte)}`);
      }
      take();
      const read = new DirtyMap();
      for (const [number, value] of stored) read.add(decodePage(number, value));
      for (const one of [map, read]) {
        const found = [0, 1, 2].flatMap((volume) =>
          [...one.chunks(volume)].map((chunk) => `${volume} ${chunk}`),
        );
        assert.deepEqual(new Set(found), wanted);
        assert.equal(found.length, wanted.size);
        assert.equal(one.count, wanted.size);
        const rising = [...one.chunks(1)];
        assert.deepEqual(
          rising,
          rising.toSorted((a, b) => a - b),
        );
        for (const key of wanted) {
          const [volume, chunk] = key.split(" ").map(Number);
          assert.ok(one.has(volume!, chunk!) && !one.has(volume!, chunk! + 20_000));
        }
      }
      assert.deepEqual(read.takeChanged(), [], "what is stored has not changed");
    }),
  );
});

test("a record touches what it changes at a standby, and a digest, a mark and a gap nothing", () => {
  const range = { volume: 3, offset: 4096, length: 8192 };
  const data = new Uint8Array(8192);
  const changing: BlockRecord[] = [
    { kind: "write", ...range, data },
    { kind: "zeroes", ...range },
    { kind: "trim", ...range },
    { kind: "scanContent", ...range, data },
    { kind: "scanContent", ...range, data: null },
  ];
  for (const record of changing)
    assert.deepEqual(touchedBy(record), { volume: 3, start: 4096, end: 12_288 }, record.kind);
  const nothing = { volume: 0, offset: 0, length: 0 } as const;
  const others: BlockRecord[] = [
    { kind: "scanDigest", ...range, level: "leaf", digests: new Uint8Array(32) },
    { kind: "scanMark", ...nothing, mark: "begin", purpose: "resync", begin: 0 },
    { kind: "gap", ...nothing, span: 4, dataBytes: 1, chainAfter: new Uint8Array(32) },
  ];
  for (const record of others) assert.equal(touchedBy(record), null, record.kind);
});

/** The hex blocks of a page by their names. */
function examples(page: string): Map<string, Buffer> {
  const text = readFileSync(repositoryPath(`docs/formats/${page}.md`), "utf8");
  const found = new Map<string, Buffer>();
  for (const [, name, block] of text.matchAll(/^```hex (\S+)\n([\s\S]*?)^```$/gm))
    found.set(
      name!,
      Buffer.from(
        block!
          .split("\n")
          .map((line) => line.split("  ")[0])
          .join(""),
        "hex",
      ),
    );
  return found;
}

test("the worked examples of the pages are what is written, and a plain reader understands them", () => {
  const short = examples("overflow").get("dirty-page")!;
  const page = Buffer.concat([short.subarray(0, 13), Buffer.alloc(4094), short.subarray(13)]);
  assert.equal(page.toString("latin1", 0, 4), "SSDP");
  assert.deepEqual([page.readUInt16BE(6), page.readUInt32BE(8), page.byteLength], [1, 2, 4112]);
  assert.equal(page.readUInt32BE(4108), crc32(page.subarray(0, 4108)));
  const chunks: number[] = [];
  for (let chunk = 0; chunk < 32_768; chunk += 1)
    if (((page[12 + Math.floor(chunk / 8)]! >> (chunk % 8)) & 1) === 1) chunks.push(2 * 32_768 + chunk);
  assert.deepEqual(chunks, [65_536, 65_537, 65_539, 98_303]);
  const map = new DirtyMap();
  map.add(decodePage(2 ** 20 + 2, page));
  assert.deepEqual([...map.chunks(1)], chunks);
  assert.deepEqual(Buffer.from(encodePage(map.pages[0]!)), page);

  const overflow = examples("overflow").get("overflow")!;
  assert.equal(overflow.toString("latin1", 0, 4), "SSOV");
  assert.equal(overflow.readUInt32BE(44), crc32(overflow.subarray(0, 44)));
  const note = {
    through: Number(overflow.readBigUInt64BE(8)),
    since: {
      sequence: Number(overflow.readBigUInt64BE(16)),
      dataBytesTotal: Number(overflow.readBigUInt64BE(24)),
      atMs: Number(overflow.readBigUInt64BE(32)),
    },
    pages: overflow.readUInt32BE(40),
  };
  assert.deepEqual([note.through, note.since.sequence, note.since.dataBytesTotal], [1003, 3, 512]);
  assert.equal(note.pages, crc32(page.subarray(0, 4108)), "of the one page above");
  assert.deepEqual(decodeOverflow(overflow), note);
  assert.deepEqual(Buffer.from(encodeOverflow(note)), overflow);

  const waymark = examples("waymark").get("waymark")!;
  const sequence = Buffer.alloc(8);
  sequence.writeBigUInt64BE(2n);
  assert.equal(waymark.readUInt32BE(40), crc32(Buffer.concat([sequence, waymark.subarray(0, 40)])));
  const position = {
    sequence: 2,
    chain: new Uint8Array(waymark.subarray(8, 40)),
    dataBytesTotal: Number(waymark.readBigUInt64BE(0)),
  };
  assert.deepEqual(decodeWaymark(2, waymark), position);
  assert.deepEqual(Buffer.from(encodeWaymark(position)), waymark);
});

test("every flipped bit, every cut and another number is refused", () => {
  const bits = new Uint8Array(pageBytes).fill(0x5a);
  const samples: [Uint8Array, (bytes: Uint8Array) => unknown][] = [
    [encodePage({ volume: 2, page: 7, bits }), (bytes) => decodePage(2 * 2 ** 20 + 7, bytes)],
    [
      encodeOverflow({ through: 9, since: { sequence: 1, dataBytesTotal: 2, atMs: 3 }, pages: 7 }),
      decodeOverflow,
    ],
    [
      encodeWaymark({ sequence: 8, dataBytesTotal: 3, chain: new Uint8Array(32) }),
      (bytes) => decodeWaymark(8, bytes),
    ],
  ];
  for (const [bytes, decode] of samples) {
    decode(bytes);
    for (let bit = 0; bit < bytes.byteLength * 8; bit += bytes.byteLength > 100 ? 37 : 1) {
      const flipped = Uint8Array.from(bytes);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      assert.throws(() => decode(flipped), RemoteProtocolError, `bit ${bit}`);
    }
    for (let length = 0; length < bytes.byteLength; length += 11)
      assert.throws(() => decode(bytes.subarray(0, length)), RemoteProtocolError, `length ${length}`);
  }
  assert.throws(() => decodePage(2 * 2 ** 20 + 8, samples[0]![0]), RemoteProtocolError);
  assert.throws(() => decodeWaymark(9, samples[2]![0]), RemoteProtocolError);
});

test("a page that is not the one noted last, or is gone, is damage, whichever and however many", async () => {
  const random = new SeededRandom(seed, 73);
  for (let round = 0; round < 40; round += 1) {
    const map = new DirtyMap();
    const rows = new Map<number, Uint8Array>();
    const older = new Map<number, Uint8Array>();
    const drop = (): void => {
      for (let count = 1 + random.below(6); count > 0; count -= 1) {
        const start = random.below(3 * pageChunks) * mebibyte;
        map.touch(random.below(4), start, start + 1);
      }
      for (const page of map.takeChanged()) {
        const before = rows.get(pageNumber(page));
        if (before !== undefined) older.set(pageNumber(page), before);
        rows.set(pageNumber(page), encodePage(page));
      }
    };
    for (let drops = 1 + random.below(3); drops > 0; drops -= 1) drop();
    const since = { sequence: 1, dataBytesTotal: 2, atMs: 3 };
    const noted = encodeOverflow({ through: 9, since, pages: digestOfPages(map.pages) });
    const read = (pages: ReadonlyMap<number, Uint8Array>, note: Uint8Array | null = noted) =>
      notesOf([...pages, ...(note === null ? [] : [[overflowNumber, note] as const])]);
    assert.equal((await read(rows)).map.count, map.count);
    for (const number of rows.keys()) {
      const without = new Map(rows);
      without.delete(number);
      await assert.rejects(read(without), { code: "JOURNAL_DAMAGED" }, `SEED=${seed} without ${number}`);
    }
    for (const [number, value] of older) {
      if (Buffer.compare(value, rows.get(number)!) === 0) continue;
      const stale = new Map(rows).set(number, value);
      await assert.rejects(read(stale), { code: "JOURNAL_DAMAGED" }, `SEED=${seed} older ${number}`);
    }
    await assert.rejects(read(rows, null), { code: "JOURNAL_DAMAGED" }, "pages of no overflow");
  }
  assert.deepEqual((await notesOf([])).note, null, "no overflow has no pages");
});

/** What a journal that holds these rows is read as. */
function notesOf(rows: readonly (readonly [number, Uint8Array])[]): ReturnType<typeof readNotes> {
  return readNotes({ notes: () => Promise.resolve(rows.map(([number, value]) => ({ number, value }))) });
}

test("waymarks stand at the ends of frames, and inside those that may have been cut, as far as the span reaches", () => {
  const short = nextFrame(origin, 512, 8);
  const at = (frame: typeof short, anchors: number[]) =>
    waymarksOf(frame, anchors).map(({ sequence }) => sequence);
  assert.deepEqual(at(short, [0]), [8]);
  assert.deepEqual(at(short, [3]), [3, 8], "known to be there");
  assert.deepEqual(at(short, [9]), []);
  const long = nextFrame({ ...origin, sequence: 100 }, 8192, 12);
  assert.deepEqual(
    at(long, [90]),
    Array.from({ length: 12 }, (_, index) => 101 + index),
  );
  assert.deepEqual(at(long, [110]), [110, 111, 112]);
  const far = nextFrame({ ...origin, sequence: waymarkSpan + 50 }, 8192, 12);
  assert.deepEqual(at(far, [55]), [
    waymarkSpan + 51,
    waymarkSpan + 52,
    waymarkSpan + 53,
    waymarkSpan + 54,
    waymarkSpan + 55,
  ]);
  for (const { sequence, chain, dataBytesTotal } of waymarksOf(long, [90])) {
    const piece = sliceFrame(long, long.first, sequence);
    assert.deepEqual([chain, dataBytesTotal], [piece.chainAfter, piece.dataBytesTotal]);
  }
});
