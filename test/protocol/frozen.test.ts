/** Version 1 of every format, frozen: its bytes decode for ever, and the pages in docs/formats show these very bytes. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { decodeHead } from "../../journal/head.ts";
import { decodeSlot } from "../../journal/watermark-slot.ts";
import { scanAhead } from "../../journal/write-ahead-frames.ts";
import {
  batchBytesMax,
  batchHeaderBytes,
  batchRawBytesMax,
  decodeBatchHeader,
  decodeBatchPayload,
} from "../../protocol/batch.ts";
import { parseHeartbeat, parseHeartbeatAnswer } from "../../protocol/control.ts";
import { decodeFrame, frameBodyBytesMax, frameRecordsMax } from "../../protocol/frame.ts";
import { decodeRecord } from "../../protocol/record.ts";
import { repositoryPath } from "../support/tree.ts";
import {
  encodeSamples,
  sampleFilling,
  sampleFrame,
  sampleGapFrame,
  sampleGenesis,
  sampleHead,
  sampleLineage,
  sampleRecords,
  sampleScanRecords,
  sampleSlot,
  sampleToken,
  sampleVolumeChanges,
  sampleVolumeFrame,
  sampleVolumeSyncEnd,
  sampleVolumes,
  sampleWriteFrame,
} from "./frozen/samples.ts";
import { naiveFrame, naiveRecord } from "./naive/arbitrary.ts";
import * as naive from "./naive/formats.ts";
import { decodeAhead } from "./naive/write-ahead.ts";

const frozenFolder = `${repositoryPath("test/protocol/frozen")}/`;
const pagesFolder = `${repositoryPath("docs/formats")}/`;

const scanSamples = [
  "record-scan-begin",
  "record-scan-digest-chunk",
  "record-scan-digest-leaf",
  "record-scan-content",
  "record-scan-zeroes",
  "record-scan-end",
];

function frozen(name: string): Uint8Array {
  return Uint8Array.from(
    Buffer.from(readFileSync(`${frozenFolder}${name}.v1.hex`, "latin1").replace(/\s/g, ""), "hex"),
  );
}

/** The fenced blocks of a page by their name: hex before the two spaces of each line, or JSON text. */
function examples(page: string): Map<string, Buffer> {
  const found = new Map<string, Buffer>();
  for (const [, language, name, text] of page.matchAll(/^```(hex|json) (\S+)\n([\s\S]*?)^```$/gm)) {
    const hex = text!.split("\n").map((line) => line.split("  ")[0]!.trim());
    found.set(name!, language === "hex" ? Buffer.from(hex.join(""), "hex") : Buffer.from(text!.trim()));
  }
  return found;
}

function decodeBatch(bytes: Uint8Array) {
  const header = decodeBatchHeader(bytes);
  return { header, frames: decodeBatchPayload(header, bytes.subarray(batchHeaderBytes)) };
}

test("frozen bytes decode to what they always meant", () => {
  const records = ["record-zeroes", "record-trim"].map((name) => {
    const bytes = frozen(name);
    return decodeRecord(bytes, new DataView(bytes.buffer), 0).record;
  });
  assert.deepEqual(records, sampleRecords);
  for (const [index, name] of scanSamples.entries()) {
    const bytes = frozen(name);
    const { record } = decodeRecord(bytes, new DataView(bytes.buffer), 0);
    assert.deepEqual(naiveRecord(record), naiveRecord(sampleScanRecords[index]!), name);
    assert.deepEqual(naive.decodeRecords([...bytes], 1), [naiveRecord(record)], name);
  }
  const gap = frozen("record-gap");
  assert.deepEqual(decodeRecord(gap, new DataView(gap.buffer), 0).record, sampleGapFrame.records[0]);
  assert.deepEqual(naive.decodeRecords([...gap], 1), sampleGapFrame.records.map(naiveRecord));
  const gapFrame = decodeFrame(frozen("frame-gap"));
  assert.deepEqual([gapFrame.first, gapFrame.count, gapFrame.last], [4, 1, 1003]);
  assert.deepEqual(naiveFrame(gapFrame), naiveFrame(sampleGapFrame));
  for (const [name, meant] of [
    ["record-volume-data", sampleVolumeChanges[0]!],
    ["record-volume-grown", sampleVolumeChanges[1]!],
    ["record-volume-sync-end", sampleVolumeSyncEnd],
  ] as const) {
    const bytes = frozen(name);
    assert.deepEqual(decodeRecord(bytes, new DataView(bytes.buffer), 0).record, meant, name);
    assert.deepEqual(naive.decodeRecords([...bytes], 1), [naiveRecord(meant)], name);
  }
  assert.deepEqual(naiveFrame(decodeFrame(frozen("frame-volume"))), naiveFrame(sampleVolumeFrame));
  const write = frozen("record-write");
  assert.equal(decodeRecord(write, new DataView(write.buffer), 0).end, 528);
  assert.deepEqual(naiveFrame(decodeFrame(frozen("frame"))), naiveFrame(sampleFrame));
  assert.deepEqual(naiveFrame(decodeFrame(frozen("frame-lz4"))), naiveFrame(sampleWriteFrame));
  assert.deepEqual(decodeBatch(frozen("batch")).frames.map(naiveFrame), [naiveFrame(sampleFrame)]);
  for (const name of ["batch-lz4", "batch-brotli"]) {
    const { header, frames } = decodeBatch(frozen(name));
    assert.deepEqual(frames.map(naiveFrame), [sampleFrame, sampleWriteFrame].map(naiveFrame));
    assert.deepEqual(header.token, sampleToken);
  }
  assert.deepEqual(decodeSlot(frozen("watermark")), sampleSlot);
  assert.deepEqual(decodeHead(frozen("head")), sampleHead);
  assert.deepEqual(
    scanAhead(frozen("write-ahead")).map(({ first, value }) => [first, naiveFrame(decodeFrame(value))]),
    [sampleFrame, sampleGapFrame].map((frame) => [frame.first, naiveFrame(frame)]),
  );
});

test("today's code writes the frozen bytes wherever they are determined", async () => {
  for (const [name, { bytes, deterministic }] of Object.entries(await encodeSamples())) {
    if (deterministic)
      assert.equal(Buffer.from(bytes).toString("hex"), Buffer.from(frozen(name)).toString("hex"), name);
  }
});

test("the naive twin reads the frozen bytes", () => {
  assert.deepEqual(naive.decodeFrame([...frozen("frame")]), naiveFrame(sampleFrame));
  assert.deepEqual(naive.decodeFrame([...frozen("frame-gap")]), naiveFrame(sampleGapFrame));
  assert.deepEqual(naive.decodeFrame([...frozen("frame-lz4")]), naiveFrame(sampleWriteFrame));
  assert.deepEqual(naive.decodeFrame([...frozen("frame-volume")]), naiveFrame(sampleVolumeFrame));
  for (const name of ["batch", "batch-lz4", "batch-brotli"]) {
    assert.deepEqual(naive.decodeBatch([...frozen(name)]).frames[0], naiveFrame(sampleFrame), name);
  }
  assert.deepEqual(
    decodeAhead([...frozen("write-ahead")]).map(({ filling, value }) => [filling, naive.decodeFrame(value)]),
    [sampleFrame, sampleGapFrame].map((frame) => [sampleFilling, naiveFrame(frame)]),
  );
  const chain = [...frozen("chain")];
  assert.deepEqual(chain.slice(0, 32), naive.genesis([...sampleLineage], sampleVolumes));
  assert.deepEqual(chain.slice(32, 64), naive.walk([...sampleGenesis], sampleRecords.map(naiveRecord)));
});

test("the worked examples of the pages are the frozen bytes", () => {
  for (const page of ["record", "chain", "frame", "batch", "watermark", "head", "write-ahead"]) {
    const found = examples(readFileSync(`${pagesFolder}${page}.md`, "utf8"));
    assert.ok(found.size > 0, `${page} shows an example`);
    for (const [name, bytes] of found) {
      assert.equal(bytes.toString("hex"), Buffer.from(frozen(name)).toString("hex"), `${page} ${name}`);
    }
  }
});

test("the control page's examples are understood", () => {
  const found = examples(readFileSync(`${pagesFolder}control.md`, "utf8"));
  assert.equal(parseHeartbeat(found.get("heartbeat")!).answered, 812);
  assert.deepEqual(parseHeartbeatAnswer(found.get("heartbeat-answer")!), {
    kind: "alive",
    durable: 806,
    applied: 800,
    stopped: null,
  });
  assert.deepEqual(found.get("control-heartbeat-answer"), found.get("heartbeat-answer"));
});

test("the limits that the pages state are the limits of the code", () => {
  const page = (name: string): string => readFileSync(`${pagesFolder}${name}.md`, "utf8");
  assert.ok(page("batch").includes(`${batchRawBytesMax.toLocaleString("en-US")} bytes unpacked`));
  assert.ok(page("batch").includes(`${batchBytesMax.toLocaleString("en-US")} bytes`));
  assert.equal(frameBodyBytesMax, 2 * 1024 * 1024 + 16);
  assert.ok(page("frame").includes(`${frameRecordsMax.toLocaleString("en-US")} records`));
});
