/** A volume's requests as records of the write order: every byte of every length is in it, and FUA is never lost. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { BlockRecord } from "../../../protocol/record.ts";
import { recordDataBytesMax, recordRangeBytesMax } from "../../../protocol/record.ts";
import type { RecordSink } from "../../../site-agent/group/volume-device.ts";
import { VolumeDevice } from "../../../site-agent/group/volume-device.ts";

class Sink implements RecordSink {
  readonly submitted: { records: readonly BlockRecord[]; durable: boolean }[] = [];
  flushes = 0;

  async submit(records: readonly BlockRecord[], durable: boolean): Promise<void> {
    this.submitted.push({ records, durable });
  }

  async flush(): Promise<void> {
    this.flushes += 1;
  }

  async read(): Promise<Uint8Array> {
    return new Uint8Array();
  }

  async extents(): Promise<[]> {
    return [];
  }
}

const volume = { number: 3, name: "data", sizeBytes: 2 ** 43 };

test("a write of any length is records that join to exactly its bytes, with its FUA", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(
        fc.integer({ min: 1, max: 40 }),
        fc.constantFrom(-1, 0, 1).map((more) => recordDataBytesMax / 512 + more),
        fc.integer({ min: 1, max: 8_000 }),
      ),
      fc.nat(2 ** 33),
      fc.boolean(),
      async (sectors, at, fua) => {
        const sink = new Sink();
        const data = Buffer.alloc(sectors * 512, sectors & 0xff);
        for (let sector = 0; sector < sectors; sector += 1) data.writeUInt32BE(sector, sector * 512);
        await new VolumeDevice(sink, volume).write(at * 512, data, { fua });
        const [only] = sink.submitted;
        assert.equal(sink.submitted.length, 1, "one request, one place in the order");
        assert.equal(only?.durable, fua);
        let next = at * 512;
        const parts: Uint8Array[] = [];
        for (const record of only.records) {
          assert.equal(record.kind, "write");
          assert.deepEqual([record.volume, record.offset], [3, next]);
          assert.ok(record.length > 0 && record.length <= recordDataBytesMax);
          next += record.length;
          if (record.kind === "write") parts.push(record.data);
        }
        assert.equal(Buffer.concat(parts).compare(data), 0);
      },
    ),
    { numRuns: 60 },
  );
});

test("trims and zeroes of any length are one record of that length, with their FUA", async () => {
  for (const length of [512, 2 ** 16, 2 ** 31, 2 ** 31 + 512, recordRangeBytesMax]) {
    for (const fua of [false, true]) {
      const sink = new Sink();
      const device = new VolumeDevice(sink, volume);
      const range = { volume: 3, offset: 2 ** 40, length };
      await device.trim(2 ** 40, length, { fua });
      await device.zero(2 ** 40, length, { fua, mayTrim: false, fast: false });
      await device.zero(2 ** 40, length, { fua, mayTrim: true, fast: true });
      assert.deepEqual(sink.submitted, [
        { records: [{ kind: "trim", ...range }], durable: fua },
        { records: [{ kind: "zeroes", ...range }], durable: fua },
        { records: [{ kind: "trim", ...range }], durable: fua },
      ]);
    }
  }
});

test("a FLUSH is the group's, whichever volume it comes from", async () => {
  const sink = new Sink();
  await new VolumeDevice(sink, volume).flush();
  assert.equal(sink.flushes, 1);
});
