/** The marker: its format page, torn slots, and which of two slots counts. */
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import fc from "fast-check";
import type { MarkerState } from "../../image/marker.ts";
import { decodeMarkerSlot, encodeMarkerSlot, Marker, markerSlotBytes } from "../../image/marker.ts";
import { bytesFromHex } from "../../protocol/ids.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { errorCode } from "../../runtime/errors.ts";
import { diskError, hookedDisk } from "../support/hooked-disk.ts";
import { repositoryPath } from "../support/tree.ts";

let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "splitsite-marker-"));
});
after(() => rm(folder, { recursive: true, force: true }));

const lineage = new Uint8Array(16).fill(0x11);

function stateAt(sequence: number, applyingLast = sequence): MarkerState {
  const chain = new Uint8Array(32).fill(sequence % 256);
  return {
    lineage,
    applied: { sequence, chain, dataBytesTotal: sequence * 4096, timeMs: sequence + 1 },
    applyingLast,
  };
}

function rejectsWith(code: string, promise: Promise<unknown>): Promise<void> {
  return assert.rejects(promise, (error) => errorCode(error) === code);
}

test("a slot is read back as it was written; any flipped bit of it is noticed", () => {
  const number = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
  const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
  fc.assert(
    fc.property(
      bytes(16),
      bytes(32),
      number,
      number,
      number,
      number,
      number,
      fc.nat(799),
      (id, chain, sequence, dataBytesTotal, timeMs, applyingLast, generation, bit) => {
        const applied = { sequence, chain, dataBytesTotal, timeMs };
        const state = { lineage: id, applied, applyingLast: Math.max(sequence, applyingLast) };
        const slot = encodeMarkerSlot(state, generation);
        assert.equal(slot.byteLength, markerSlotBytes);
        assert.deepEqual(decodeMarkerSlot(slot), { state, generation });
        slot[bit >> 3]! ^= 1 << (bit & 7);
        assert.equal(decodeMarkerSlot(slot), undefined);
      },
    ),
  );
});

test("the worked example of the format page is a slot", async () => {
  const page = await readFile(repositoryPath("docs/formats/marker.md"), "utf8");
  const example = page.match(/```hex\n([\s\S]*?)```/)![1]!;
  const bytes = bytesFromHex(example.replaceAll(/#.*$/gm, "").replaceAll(/\s/g, ""))!;
  const slot = decodeMarkerSlot(bytes)!;
  assert.equal(slot.generation, 7);
  assert.deepEqual(slot.state, {
    lineage: bytesFromHex("0123456789abcdef0123456789abcdef"),
    applied: {
      sequence: 806,
      chain: new Uint8Array(32).fill(0xc4),
      dataBytesTotal: 3_301_376,
      timeMs: 1_772_446_446_000,
    },
    applyingLast: 812,
  });
  assert.deepEqual(encodeMarkerSlot(slot.state, 7).subarray(0, bytes.byteLength), bytes);
});

test("what was written last is there after opening again", async () => {
  const path = join(folder, "again");
  const marker = await Marker.create(systemDisk, path, stateAt(0));
  await marker.write(stateAt(0).applied, 9);
  await marker.write(stateAt(9).applied, 9);
  await marker.write(stateAt(9).applied, 30);
  await marker.close();
  const again = await Marker.open(systemDisk, path, lineage);
  assert.deepEqual(again.state, stateAt(9, 30));
  await again.close();
});

test("a write torn anywhere leaves the state before it or the one it was", async () => {
  const path = join(folder, "torn");
  const marker = await Marker.create(systemDisk, path, stateAt(0));
  await marker.write(stateAt(5).applied, 5);
  const earlier = await readFile(path);
  await marker.write(stateAt(5).applied, 8);
  const later = await readFile(path);
  await marker.close();
  // The write changes one slot: any prefix or any single sector of it may have reached the disk.
  for (const cut of [0, 1, 40, 95, 99, 100, 512, 4096, 4097, 4136, 4196, 4608, 8192]) {
    await writeFile(path, Buffer.concat([later.subarray(0, cut), earlier.subarray(cut)]));
    const opened = await Marker.open(systemDisk, path, lineage);
    assert([5, 8].includes(opened.state.applyingLast), `cut at ${cut}`);
    assert.equal(opened.state.applied.sequence, 5);
    await opened.close();
  }
});

test("a marker that is missing, damaged in both slots or of another history is refused", async () => {
  await rejectsWith("MARKER_MISSING", Marker.open(systemDisk, join(folder, "absent"), lineage));
  const path = join(folder, "damaged");
  await (await Marker.create(systemDisk, path, stateAt(1))).close();
  await rejectsWith("MARKER_LINEAGE", Marker.open(systemDisk, path, new Uint8Array(16)));
  await writeFile(path, Buffer.alloc(8192));
  await rejectsWith("MARKER_DAMAGED", Marker.open(systemDisk, path, lineage));
  await writeFile(path, "");
  await rejectsWith("MARKER_DAMAGED", Marker.open(systemDisk, path, lineage));
});

test("creating it again is done when it says the same, and refused when a history has begun", async () => {
  const path = join(folder, "created");
  await (await Marker.create(systemDisk, path, stateAt(3))).close();
  const again = await Marker.create(systemDisk, path, stateAt(3));
  await again.write(stateAt(4).applied, 4);
  await again.close();
  await rejectsWith("MARKER_EXISTS", Marker.create(systemDisk, path, stateAt(3)));
});

test("after one failed sync every later write fails, although the disk would take it", async () => {
  let failing = true;
  const disk = hookedDisk((operation) => {
    if (failing && operation === "syncData") throw diskError("EIO");
  });
  const marker = await Marker.create(disk, join(folder, "failing"), stateAt(0));
  await rejectsWith("IMAGE_MARKER_FAILED", marker.write(stateAt(1).applied, 1));
  failing = false;
  await rejectsWith("IMAGE_MARKER_FAILED", marker.write(stateAt(1).applied, 1));
  assert.equal(marker.state.applied.sequence, 0);
  await marker.close();
});

test("what an opening finds is durable before anybody goes by it: its writer may have been killed before the sync", async () => {
  const path = join(folder, "unsynced");
  const marker = await Marker.create(systemDisk, path, stateAt(0));
  await marker.write(stateAt(7).applied, 7);
  await marker.close();
  const steps: string[] = [];
  let fails = false;
  const disk = hookedDisk((operation, at) => {
    if (at !== path || (operation !== "write" && operation !== "syncData")) return;
    steps.push(operation);
    if (fails && operation === "syncData") throw diskError("EIO");
  });
  const again = await Marker.open(disk, path, lineage);
  assert.deepEqual(steps, ["write", "syncData"]);
  assert.equal(again.state.applied.sequence, 7);
  await again.close();
  fails = true;
  await rejectsWith("IMAGE_MARKER_FAILED", Marker.open(disk, path, lineage));
});
