/**
 * What every block device must do, as a suite to run against each of them: memory, file, each layer. The model is a
 * plain buffer. Capabilities a device does not have are not asked of it.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { type BlockDevice, BlockError } from "../../block/device.ts";

/** Bytes the suite wants the device to have. */
export const contractSizeBytes = 1024 * 1024;

const plain = { fua: false };
const durable = { fua: true };

/**
 * Registers the suite under `name`. `makeDevice` gives a fresh device of `contractSizeBytes` that reads as zeroes and
 * can write; the suite closes it.
 */
export function blockDeviceContract(name: string, makeDevice: () => Promise<BlockDevice>): void {
  async function withDevice(run: (device: BlockDevice) => Promise<void>): Promise<void> {
    const device = await makeDevice();
    try {
      await run(device);
    } finally {
      await device.close();
    }
  }

  async function assertContent(device: BlockDevice, expected: Buffer): Promise<void> {
    assert.ok(expected.equals(await device.read(0, expected.length)), "content differs from the model");
  }

  describe(`${name} keeps the block device contract`, () => {
    test("its shape is sound", () =>
      withDevice((device) => {
        const { minimum, preferred, maximum } = device.blockSize;
        assert.equal(device.sizeBytes, contractSizeBytes);
        for (const power of [minimum, preferred])
          assert.ok(power > 0 && (power & (power - 1)) === 0, `${power}`);
        assert.ok(minimum <= 65_536 && preferred >= minimum && maximum >= preferred);
        assert.equal(device.sizeBytes % minimum, 0);
        assert.equal(device.can.write, true, "the contract is for a writable device");
        assert.ok(!device.can.fastZero || device.can.zero, "fast zeroing is a way of zeroing");
        return Promise.resolve();
      }));

    test("a new one reads as zeroes, to its last byte", () =>
      withDevice(async (device) => {
        await assertContent(device, Buffer.alloc(contractSizeBytes));
        const { minimum } = device.blockSize;
        assert.equal((await device.read(contractSizeBytes - minimum, minimum)).length, minimum);
      }));

    test("a read is a snapshot: later writes do not change it, nor does changing a written buffer", () =>
      withDevice(async (device) => {
        const { minimum } = device.blockSize;
        const first = Buffer.alloc(minimum, 1);
        await device.write(0, first, plain);
        const seen = await device.read(0, minimum);
        first.fill(9);
        await device.write(0, Buffer.alloc(minimum, 2), plain);
        assert.ok(Buffer.alloc(minimum, 1).equals(seen));
        assert.ok(Buffer.alloc(minimum, 2).equals(await device.read(0, minimum)));
      }));

    test("data given as a view of a larger buffer is written exactly", () =>
      withDevice(async (device) => {
        const { minimum } = device.blockSize;
        const around = Buffer.alloc(3 * minimum, 7);
        around.fill(3, minimum, 2 * minimum);
        await device.write(minimum, around.subarray(minimum, 2 * minimum), plain);
        const expected = Buffer.alloc(3 * minimum);
        expected.fill(3, minimum, 2 * minimum);
        assert.ok(expected.equals(await device.read(0, 3 * minimum)));
      }));

    test("flush and FUA settle, also with nothing written and many at once", () =>
      withDevice(async (device) => {
        const { minimum } = device.blockSize;
        if (device.can.flush) await device.flush();
        if (device.can.fua) await device.write(0, Buffer.alloc(minimum, 4), durable);
        if (device.can.flush) await Promise.all(Array.from({ length: 20 }, () => device.flush()));
        if (device.can.cache) await device.cache(0, contractSizeBytes);
      }));

    test("zeroed ranges read as zeroes, whether they may become holes or not", () =>
      withDevice(async (device) => {
        if (!device.can.zero) return;
        const model = Buffer.alloc(contractSizeBytes, 0x77);
        await device.write(0, model, plain);
        const { minimum } = device.blockSize;
        const ranges = [
          { offset: minimum, length: minimum, mayTrim: true },
          { offset: 4 * minimum, length: 3 * minimum, mayTrim: false },
          { offset: 256 * 1024, length: 512 * 1024, mayTrim: true },
        ];
        for (const { offset, length, mayTrim } of ranges) {
          await device.zero(offset, length, { fua: false, mayTrim, fast: false });
          model.fill(0, offset, offset + length);
        }
        await assertContent(device, model);
      }));

    test("fast zeroing either zeroes or refuses with ENOTSUP and changes nothing", () =>
      withDevice(async (device) => {
        if (!device.can.fastZero) return;
        const model = Buffer.alloc(contractSizeBytes, 0x55);
        await device.write(0, model, plain);
        try {
          await device.zero(0, contractSizeBytes, { fua: false, mayTrim: true, fast: true });
          model.fill(0);
        } catch (error) {
          assert.ok(error instanceof BlockError && error.errno === 95);
        }
        await assertContent(device, model);
      }));

    test("trimmed ranges read as zeroes: both sites must hold the same bytes after a trim too", () =>
      withDevice(async (device) => {
        if (!device.can.trim) return;
        const model = Buffer.alloc(contractSizeBytes, 0x66);
        await device.write(0, model, plain);
        await device.trim(128 * 1024, 256 * 1024, plain);
        model.fill(0, 128 * 1024, 384 * 1024);
        await assertContent(device, model);
      }));

    test("extents are contiguous from the offset, within the range, and never call data zero", () =>
      withDevice(async (device) => {
        if (!device.can.extents) return;
        const model = Buffer.alloc(contractSizeBytes);
        model.fill(1, 128 * 1024, 192 * 1024);
        model.fill(1, 700 * 1024, 701 * 1024);
        await device.write(128 * 1024, model.subarray(128 * 1024, 192 * 1024), plain);
        await device.write(700 * 1024, model.subarray(700 * 1024, 701 * 1024), plain);
        const { minimum } = device.blockSize;
        for (const offset of [0, minimum, 128 * 1024, 160 * 1024, contractSizeBytes - minimum]) {
          const length = contractSizeBytes - offset;
          const extents = await device.extents(offset, length);
          assert.ok(extents.length > 0);
          let at = offset;
          for (const extent of extents) {
            assert.ok(extent.length > 0 && at + extent.length <= offset + length);
            if (extent.zero) assert.ok(model.subarray(at, at + extent.length).every((byte) => byte === 0));
            at += extent.length;
          }
        }
      }));

    test("any sequence of operations leaves the content of the model", async () => {
      const probe = await makeDevice();
      const { can, blockSize } = probe;
      await probe.close();
      const units = contractSizeBytes / blockSize.minimum;
      const kinds = ["write", ...(can.zero ? ["zero", "keep"] : []), ...(can.trim ? ["trim"] : [])];
      const operation = fc.record({
        kind: fc.constantFrom(...kinds),
        start: fc.nat({ max: units - 1 }),
        count: fc.oneof(fc.integer({ min: 1, max: 16 }), fc.integer({ min: 1, max: units })),
        fill: fc.integer({ min: 1, max: 255 }),
        fua: fc.boolean(),
      });
      await fc.assert(
        fc.asyncProperty(fc.array(operation, { maxLength: 20 }), (operations) =>
          withDevice(async (device) => {
            const model = Buffer.alloc(contractSizeBytes);
            for (const { kind, start, count, fill, fua } of operations) {
              const offset = start * blockSize.minimum;
              const length = Math.min(count, units - start) * blockSize.minimum;
              const options = { fua: fua && can.fua };
              if (kind === "write") {
                model.fill(fill, offset, offset + length);
                await device.write(offset, model.subarray(offset, offset + length), options);
                continue;
              }
              model.fill(0, offset, offset + length);
              if (kind === "trim") await device.trim(offset, length, options);
              else await device.zero(offset, length, { ...options, mayTrim: kind === "zero", fast: false });
            }
            await assertContent(device, model);
          }),
        ),
        { numRuns: 30 },
      );
    });

    test("operations on separate ranges at once do not disturb each other", () =>
      withDevice(async (device) => {
        const model = Buffer.alloc(contractSizeBytes);
        const part = 16 * 1024;
        const running: Promise<void>[] = [];
        for (let offset = 0; offset < contractSizeBytes; offset += part) {
          const data = Buffer.alloc(part, 1 + offset / part);
          model.set(data, offset);
          running.push(device.write(offset, data, plain));
        }
        if (device.can.flush) running.push(device.flush());
        await Promise.all(running);
        await assertContent(device, model);
      }));
  });
}
