/** Planted bugs of the formats: what is written to disk and line, and what is believed of it. */
import type { PlantedBug } from "../planted-bug.ts";

const record = "test/protocol/record.test.ts";
const frame = "test/protocol/frame.test.ts";
const frozen = "test/protocol/frozen.test.ts";

export const formatBugs: readonly PlantedBug[] = [
  {
    id: "formats/crc-over-the-stored-body",
    does: "The checksum of a frame covers the packed bytes, so that a faulty decoder goes unnoticed by it.",
    file: "protocol/frame.ts",
    find: "  out.set(stored, frameHeaderBytes);\n",
    replace:
      "  out.set(stored, frameHeaderBytes);\n  out.writeUInt32BE(crc32(stored), 44);\n  out.writeUInt32BE(crc32(out.subarray(0, frameHeaderBytes - 4)), frameHeaderBytes - 4);\n",
    also: [{ find: "if (crc32(body) !== head.bodyCrc)", replace: "if (crc32(stored) !== head.bodyCrc)" }],
    caughtBy: [{ file: frame, only: "naive twin" }, { file: frozen }],
    budgetSeconds: 60,
  },
  {
    id: "formats/chain-not-checked",
    does: "A right checksum stands for the chain: records may come in another order than it says.",
    file: "protocol/frame.ts",
    find: '  if (records[0]?.kind !== "gap" && !bytesEqual(walker.value, head.chainAfter)) {',
    replace: '  if (records[0]?.kind !== "gap" && crc32(body) !== head.bodyCrc) {',
    caughtBy: [{ file: frame, only: "another order" }],
    budgetSeconds: 30,
  },
  {
    id: "formats/zeroes-length-of-16-bits",
    does: "The length in a record is cut to 16 bits.",
    file: "protocol/record.ts",
    find: "  view.setUint32(at + 4, record.length);\n",
    replace: "  view.setUint32(at + 4, record.length & 0xffff);\n",
    caughtBy: [{ file: record }],
    budgetSeconds: 30,
  },
  {
    id: "formats/offset-without-its-high-word",
    does: "A record's offset is written without what is above 32 bits.",
    file: "protocol/record.ts",
    find: "  view.setUint32(at + 8, Math.floor(offset / 2 ** 32));\n",
    replace: "  view.setUint32(at + 8, 0);\n",
    caughtBy: [{ file: record }],
    budgetSeconds: 30,
  },
  {
    id: "formats/offset-read-by-shifts",
    does: "A record's offset is put together with a shift that works modulo 32.",
    file: "protocol/record.ts",
    find: "view.getUint32(at + 8) * 2 ** 32 + view.getUint32(at + 12)",
    replace: "(view.getUint32(at + 8) << 32) + view.getUint32(at + 12)",
    caughtBy: [{ file: record }],
    budgetSeconds: 30,
  },
  {
    id: "formats/lz4-length-not-checked",
    does: "An LZ4 block is unpacked to whatever length it declares itself.",
    file: "protocol/lz4.ts",
    find: "  if (buffer.length < 4 || buffer.readUInt32LE(0) !== rawLength) {",
    replace: "  if (buffer.length < 4) {",
    caughtBy: [{ file: "test/protocol/lz4.test.ts" }],
    budgetSeconds: 60,
  },
  {
    id: "formats/frames-ordered-by-clock",
    does: "Frames that are joined are ordered by wall clock instead of sequence.",
    file: "protocol/frame-join.ts",
    find: "  for (const frame of frames) {\n    const isLone",
    replace:
      "  for (const frame of [...frames].sort((a, b) => a.closedAtMs - b.closedAtMs)) {\n    const isLone",
    caughtBy: [{ file: "test/protocol/frame-join.test.ts" }],
    budgetSeconds: 30,
  },
  {
    id: "formats/epoch-compared-with-ge",
    does: "An equal epoch counts as newer.",
    file: "protocol/ids.ts",
    find: `  if (offered.epoch > held.epoch) return "newer";`,
    replace: `  if (offered.epoch >= held.epoch) return "newer";`,
    caughtBy: [{ file: "test/protocol/ids.test.ts" }],
    budgetSeconds: 30,
  },
];
