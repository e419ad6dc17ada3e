/** A scan's records among a client's: compared at exactly their sequence, applied where they are to be, nowhere else. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import fc from "fast-check";
import { GroupImage } from "../../image/group-image.ts";
import { Overlay } from "../../image/overlay.ts";
import type { Frame } from "../../protocol/frame.ts";
import type { VolumeEntry } from "../../protocol/ids.ts";
import type { BlockRecord, ScanDigestRecord } from "../../protocol/record.ts";
import { leafDigests } from "../../protocol/scan-digest.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { silentLog } from "../../runtime/log.ts";
import { CrashDevice } from "./crash-device.ts";
import { applyNaively, FrameSource, lineage, originOf, recordOf, recordShapes } from "./frames.ts";

const sectorCount = 64;
const sizeBytes = sectorCount * 512;
const volumes: readonly VolumeEntry[] = [0, 1].map((number) => ({ number, name: `v${number}`, sizeBytes }));
const origin = originOf(volumes);
let folder = "";
let markers = 0;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "splitsite-scanned-"));
});
after(() => rm(folder, { recursive: true, force: true }));

function open(
  devices: readonly CrashDevice[],
  markerPath: string,
  mode: "create" | "open",
  scanned: "apply" | "held",
) {
  return GroupImage.open({
    disk: systemDisk,
    volumes: volumes.map((entry, index) => ({ entry, device: devices[index]! })),
    markerPath,
    lineage,
    mode,
    origin,
    scanned,
    log: silentLog,
  });
}

function newDevices(): CrashDevice[] {
  return volumes.map(() => new CrashDevice(new Uint8Array(sizeBytes)));
}

function newMarkerPath(): string {
  markers += 1;
  return join(folder, `marker-${markers}`);
}

/** A client's record, a digest of a volume as it will be then, or content that the client never wrote. */
type Entry = { readonly digestOf: number } | { readonly record: BlockRecord };

const entries: fc.Arbitrary<Entry[]> = fc.array(
  fc.oneof(
    { weight: 3, arbitrary: recordShapes(2, sectorCount, 16).map((shape) => ({ record: recordOf(shape) })) },
    { weight: 2, arbitrary: fc.nat(1).map((digestOf) => ({ digestOf })) },
    {
      weight: 1,
      arbitrary: recordShapes(2, sectorCount, 16).map((shape): Entry => {
        const record = recordOf(shape);
        const { volume, offset, length } = record;
        const data = record.kind === "write" ? record.data : null;
        return { record: { kind: "scanContent", volume, offset, length, data } };
      }),
    },
    {
      weight: 1,
      arbitrary: fc.constant<Entry>({
        record: {
          kind: "scanMark",
          volume: 0,
          offset: 0,
          length: 0,
          mark: "begin",
          purpose: "verify",
          begin: 0,
        },
      }),
    },
  ),
  { minLength: 1, maxLength: 30 },
);

function digestRecord(images: readonly Uint8Array[], volume: number): ScanDigestRecord {
  const digests = leafDigests(images[volume]!);
  return { kind: "scanDigest", volume, offset: 0, length: sizeBytes, level: "leaf", digests };
}

test("digests are compared when the images hold exactly the records before them, wherever frames and steps end", async () => {
  await fc.assert(
    fc.asyncProperty(
      entries,
      fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1 }),
      async (plan, cuts) => {
        const naive = volumes.map(() => new Uint8Array(sizeBytes));
        const records = plan.map((entry) => {
          if ("digestOf" in entry) return digestRecord(naive, entry.digestOf);
          applyNaively(naive, entry.record);
          return entry.record;
        });
        const source = new FrameSource(origin);
        const frames = [];
        for (let at = 0, cut = 0; at < records.length; cut += 1) {
          const count = cuts[cut % cuts.length]!;
          frames.push(source.next(records.slice(at, at + count)));
          at += count;
        }
        const devices = newDevices();
        const image = await open(devices, newMarkerPath(), "create", "apply");
        const compared: number[] = [];
        for (let at = 0, cut = 0; at < frames.length; cut += 1) {
          const step = frames.slice(at, at + cuts[cut % cuts.length]!);
          at += step.length;
          await image.apply(step, async (record, sequence) => {
            const content = await image.read(record.volume, record.offset, record.length);
            assert.deepEqual(
              Buffer.from(leafDigests(content)),
              Buffer.from(record.digests),
              `at ${sequence}`,
            );
            compared.push(sequence);
          });
        }
        const wanted = records.flatMap(({ kind }, index) => (kind === "scanDigest" ? [index + 1] : []));
        assert.deepEqual(compared, wanted);
        for (const [index, expected] of naive.entries()) {
          assert.deepEqual(Buffer.from(await image.read(index, 0, sizeBytes)), Buffer.from(expected));
        }
        await image.close();
      },
    ),
    { numRuns: 60 },
  );
});

test("images that a scan was read from ignore its content, and so does the overlay", async () => {
  await fc.assert(
    fc.asyncProperty(entries, async (plan) => {
      const naive = volumes.map(() => new Uint8Array(sizeBytes));
      const records = plan.map((entry) => {
        if ("digestOf" in entry) return digestRecord(naive, entry.digestOf);
        if (entry.record.kind !== "scanContent") applyNaively(naive, entry.record);
        return entry.record;
      });
      const frame = new FrameSource(origin).next(records);
      const image = await open(newDevices(), newMarkerPath(), "create", "held");
      const overlay = new Overlay();
      overlay.insert(frame);
      const seen = volumes.map(({ number }) => overlay.read(number, 0, sizeBytes));
      await image.apply([frame]);
      for (const [index, expected] of naive.entries()) {
        assert.deepEqual(Buffer.from(await image.read(index, 0, sizeBytes)), Buffer.from(expected));
        const found = seen[index];
        if (found === undefined || found instanceof Uint8Array) continue;
        for (const { offset, length, source } of found) {
          const wanted = Buffer.from(expected.subarray(offset, offset + length));
          if (source !== "image")
            assert.deepEqual(source === "zero" ? Buffer.alloc(length) : Buffer.from(source), wanted);
        }
      }
      overlay.evictThrough(frame.last);
      assert.equal(overlay.bytes, 0);
      assert.equal(overlay.rangeCount, 0);
      await image.close();
    }),
    { numRuns: 60 },
  );
});

test("after a step that was cut short its digests are not compared: the images may hold what came after them", async () => {
  const devices = newDevices();
  const path = newMarkerPath();
  const data = new Uint8Array(512).fill(1);
  const source = new FrameSource(origin);
  const first = source.next([
    digestRecord([new Uint8Array(sizeBytes), new Uint8Array(sizeBytes)], 0),
    { kind: "write", volume: 0, offset: 0, length: 512, data },
  ]);
  const image = await open(devices, path, "create", "apply");
  await image.begin(first.last);
  await image.apply([first], () => Promise.resolve());
  await image.close();
  const again = await open(devices, path, "open", "apply");
  const told: number[] = [];
  const tell = (_: ScanDigestRecord, sequence: number): Promise<void> => {
    told.push(sequence);
    return Promise.resolve();
  };
  await again.apply([first], tell);
  const content = new Uint8Array(sizeBytes);
  content.set(data);
  await again.apply([source.next([digestRecord([content], 0)])], tell);
  assert.deepEqual(told, [3], "only the digest behind the step that may have been applied in part");
  await again.close();
});

test("a gap is a step like another: no block changes, the marker moves, and frames behind it go on from there", async () => {
  const devices = newDevices();
  const markerPath = newMarkerPath();
  const source = new FrameSource(origin);
  const naive = volumes.map(() => new Uint8Array(sizeBytes));
  const write = (fill: number) => {
    const record = recordOf({ kind: "write", volume: 0, sector: fill, sectors: 8, fill });
    applyNaively(naive, record);
    return source.next([record]);
  };
  const image = await open(devices, markerPath, "create", "apply");
  const step = async (frame: Frame): Promise<void> => {
    await image.begin(frame.last);
    await image.apply([frame]);
    await image.commit(await image.sync());
    assert.deepEqual(image.applied, source.position);
    for (const { number } of volumes)
      assert.equal(Buffer.compare(await image.read(number, 0, sizeBytes), naive[number]!), 0);
  };
  await step(write(1));
  // As long as no loop over its sequences would ever end.
  await step(source.gap(2 ** 40, 2 ** 41));
  await step(write(2));
  await image.close();
});
