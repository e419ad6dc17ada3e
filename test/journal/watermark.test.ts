/** The watermark: which slot counts, what tearing costs, and what a change of boot means (D4). */
import assert from "node:assert/strict";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import type { LogPosition } from "../../journal/frame-log.ts";
import { slotSpacingBytes, Watermark, watermarkFileBytes } from "../../journal/watermark.ts";
import type { Slot } from "../../journal/watermark-slot.ts";
import { bootBytes, decodeSlot, encodeSlotInto, slotBytes } from "../../journal/watermark-slot.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import { systemDisk } from "../../runtime/disk.ts";
import { fill, lineage, nextFrame, origin, Scratch } from "./support/scratch-log.ts";

const folder = mkdtempSync(join(tmpdir(), "splitsite-watermark-"));
const made: Scratch[] = [];
after(() => {
  rmSync(folder, { recursive: true });
  for (const one of made) one.remove();
});
function scratch(): Scratch {
  const one = new Scratch();
  made.push(one);
  return one;
}

const at = (sequence: number): LogPosition => ({
  sequence,
  chain: new Uint8Array(32).fill(sequence),
  dataBytesTotal: sequence * 512,
  closedAtMs: sequence,
});
const open = (path: string, boot = "b1") => Watermark.open(systemDisk, path, lineage, boot);
let files = 0;
async function fresh(): Promise<string> {
  files += 1;
  const path = join(folder, `watermark-${files}`);
  await Watermark.prepare(systemDisk, `${path}.new`, lineage, origin, "b1");
  await Watermark.install(systemDisk, `${path}.new`, path);
  return path;
}

function spoil(path: string, slot: number): void {
  const bytes = readFileSync(path);
  bytes[slot * slotSpacingBytes + 60]! ^= 1;
  writeFileSync(path, bytes);
}

test("a new watermark demands the origin and nothing more", async () => {
  const path = await fresh();
  const { watermark, reading } = await open(path);
  assert.deepEqual(
    [reading.durable.position.sequence, reading.answered?.position.sequence, reading.sameBoot],
    [0, 0, true],
  );
  assert.equal(readFileSync(path).byteLength, watermarkFileBytes);
  await watermark.close();
});

test("the newest of each kind is read back, whatever the number of writes", async () => {
  for (let writes = 1; writes < 6; writes += 1) {
    const path = await fresh();
    const { watermark } = await open(path);
    for (let sequence = 1; sequence <= writes; sequence += 1) {
      watermark.writeAnswered(at(sequence * 10), bootBytes("b1"));
      await watermark.writeDurable(at(sequence), bootBytes("b1"), sequence === writes);
    }
    await watermark.close();
    const { watermark: again, reading } = await open(path);
    assert.deepEqual(reading.durable.position, at(writes));
    assert.deepEqual(reading.answered?.position, at(writes * 10));
    assert.equal(reading.durable.clean, true);
    // Opened again it goes on over the older slot.
    await again.writeDurable(at(99), bootBytes("b1"), false);
    await again.close();
    const third = await open(path);
    assert.equal(third.reading.durable.position.sequence, 99);
    await third.watermark.close();
  }
});

test("power loss while a durable value is written leaves the one before it; answered writes touch neither", async () => {
  const path = await fresh();
  const { watermark } = await open(path);
  await watermark.writeDurable(at(5), bootBytes("b1"), false);
  const promised = readFileSync(path);
  // What the disk may hold of the next writes when power fails: any subset of the pages written since, whole or torn.
  for (let sequence = 6; sequence < 9; sequence += 1) watermark.writeAnswered(at(sequence), bootBytes("b1"));
  await watermark.writeDurable(at(8), bootBytes("b1"), false);
  await watermark.close();
  const later = readFileSync(path);
  for (let subset = 0; subset < 3 ** 4; subset += 1) {
    const disk = Buffer.from(promised);
    for (let slot = 0, rest = subset; slot < 4; slot += 1, rest = Math.floor(rest / 3)) {
      const start = slot * slotSpacingBytes;
      if (rest % 3 === 1) later.copy(disk, start, start, start + slotBytes);
      if (
        rest % 3 === 2 &&
        !later.subarray(start, start + slotBytes).equals(promised.subarray(start, start + slotBytes))
      ) {
        later.copy(disk, start, start, start + 50);
      }
    }
    const copy = join(folder, "power-cut");
    writeFileSync(copy, disk);
    const after = await open(copy, "b2");
    assert.ok([5, 8].includes(after.reading.durable.position.sequence), `subset ${subset}`);
    assert.equal(after.reading.sameBoot, false);
    await after.watermark.close();
  }
});

test("within one boot a slot that is not whole is damage; after a change of boot only durable ones are needed", async () => {
  for (let slot = 0; slot < 4; slot += 1) {
    const path = await fresh();
    spoil(path, slot);
    await assert.rejects(open(path, "b1"), { code: "WATERMARK_DAMAGED" });
    const { watermark } = await open(path, "b2");
    await watermark.close();
  }
  const path = await fresh();
  spoil(path, 0);
  spoil(path, 1);
  await assert.rejects(open(path, "b2"), { code: "WATERMARK_DAMAGED" });
});

test("a watermark of another history is refused", async () => {
  const path = await fresh();
  await assert.rejects(Watermark.open(systemDisk, path, new Uint8Array(16), "b1"), {
    code: "JOURNAL_DAMAGED",
  });
  await assert.rejects(open(join(folder, "none")), { code: "WATERMARK_MISSING" });
});

const arbitrarySlot: fc.Arbitrary<Slot> = fc.record(
  {
    kind: fc.constantFrom("durable", "answered"),
    clean: fc.constant(false),
    lineage: fc.uint8Array({ minLength: 16, maxLength: 16 }),
    generation: fc.maxSafeNat(),
    boot: fc.uint8Array({ minLength: 16, maxLength: 16 }),
    position: fc.record(
      {
        sequence: fc.maxSafeNat(),
        chain: fc.uint8Array({ minLength: 32, maxLength: 32 }),
        dataBytesTotal: fc.maxSafeNat(),
        closedAtMs: fc.maxSafeNat(),
      },
      { noNullPrototype: true },
    ),
  },
  { noNullPrototype: true },
);

test("slots come back as written; every flipped bit and every cut is refused", () => {
  fc.assert(
    fc.property(arbitrarySlot, (slot) => {
      const bytes = Buffer.alloc(slotBytes);
      encodeSlotInto(slot, bytes);
      assert.deepEqual(decodeSlot(bytes), slot);
    }),
  );
  const bytes = Buffer.alloc(slotBytes);
  encodeSlotInto(
    { kind: "durable", clean: true, lineage, generation: 3, boot: bootBytes("b"), position: at(7) },
    bytes,
  );
  for (let bit = 0; bit < slotBytes * 8; bit += 1) {
    const flipped = Buffer.from(bytes);
    flipped[bit >> 3]! ^= 1 << (bit & 7);
    assert.throws(() => decodeSlot(flipped), RemoteProtocolError);
  }
  for (let length = 0; length < slotBytes; length += 1)
    assert.throws(() => decodeSlot(bytes.subarray(0, length)), { code: "SLOT_TRUNCATED" });
});

test("same boot: the tail must reach what was answered; another boot: what was durable", async () => {
  const place = scratch();
  const log = await place.create();
  await fill(log, 5);
  await log.sync();
  await fill(log, 5);
  await log.close("abandon");
  const { watermarkPath } = place.options();
  copyFileSync(watermarkPath, `${watermarkPath}.kept`);
  // The answered value says 10 and the journal has 10.
  const killed = await place.open();
  assert.deepEqual(killed.recovery, { cleanShutdown: false, sameBoot: true, answered: 10 });
  await killed.log.close("clean");
  const clean = await place.open();
  assert.deepEqual(clean.recovery, { cleanShutdown: true, sameBoot: true, answered: 10 });
  await clean.log.close("clean");
  const rebooted = await place.open({ bootId: "boot-2" });
  assert.deepEqual(rebooted.recovery, { cleanShutdown: true, sameBoot: false, answered: 10 });
  await rebooted.log.close("clean");
});

/** Puts the database back to what it was when `run` began, as power loss does with what was never synced. */
async function losing(place: Scratch, run: () => Promise<void>): Promise<void> {
  const { cpSync } = await import("node:fs");
  const { directory } = place.options();
  cpSync(directory, `${directory}.kept`, { recursive: true });
  await run();
  rmSync(directory, { recursive: true });
  cpSync(`${directory}.kept`, directory, { recursive: true });
  rmSync(`${directory}.kept`, { recursive: true });
}

test("answered records that power loss took are told, until the first append, through any number of restarts", async () => {
  const place = scratch();
  const first = await place.create();
  await fill(first, 5);
  await first.sync();
  await first.close("abandon");
  await losing(place, async () => {
    const { log } = await place.open();
    await fill(log, 3);
    await log.close("abandon");
  });
  await assert.rejects(place.open(), { code: "JOURNAL_DAMAGED" }, "the same boot does not lose pages");
  for (const how of ["abandon", "clean", "abandon"] as const) {
    const { log, recovery } = await place.open({ bootId: "boot-2" });
    assert.deepEqual(recovery, { cleanShutdown: false, sameBoot: false, answered: 8 });
    assert.equal(log.tail.sequence, 5);
    await log.sync();
    await log.close(how);
  }
  const { log } = await place.open({ bootId: "boot-2" });
  await log.append(nextFrame(log.tail, 512));
  await log.close("abandon");
  const next = await place.open({ bootId: "boot-2" });
  assert.deepEqual(next.recovery, { cleanShutdown: false, sameBoot: true, answered: 6 });
  await next.log.close("clean");
});

test("a loss of durable records is damage in any boot", async () => {
  const place = scratch();
  const first = await place.create();
  await fill(first, 5);
  await first.close("clean");
  await losing(place, async () => {
    const { log } = await place.open();
    await fill(log, 3);
    await log.sync();
    await log.close("abandon");
  });
  for (const bootId of ["boot-1", "boot-2"]) {
    await assert.rejects(
      place.open({ bootId }),
      (error: { code: string; details: Record<string, unknown> }) => {
        assert.deepEqual(
          [error.code, error.details["problem"], error.details["tail"], error.details["durable"]],
          ["JOURNAL_DAMAGED", "durable-lost", 5, 8],
        );
        return true;
      },
    );
  }
});

test("a journal of the right length and other content is damage", async () => {
  const place = scratch();
  const first = await place.create();
  await fill(first, 5);
  await first.close("clean");
  await losing(place, async () => {
    const { log } = await place.open();
    await fill(log, 3);
    await log.close("clean");
  });
  const { watermarkPath } = place.options();
  copyFileSync(watermarkPath, `${watermarkPath}.eight`);
  rmSync(watermarkPath);
  // Another eight records, written with a watermark of their own.
  await Watermark.prepare(systemDisk, watermarkPath, lineage, origin, "boot-1");
  const { log } = await place.open();
  for (let count = 0; count < 3; count += 1) await log.append(nextFrame(log.tail, 1024));
  await log.close("clean");
  copyFileSync(`${watermarkPath}.eight`, watermarkPath);
  await assert.rejects(place.open(), (error: { code: string; details: Record<string, unknown> }) => {
    assert.deepEqual([error.code, error.details["sequence"]], ["JOURNAL_DAMAGED", 8]);
    assert.match(String(error.details["problem"]), /-chain$/);
    return true;
  });
});
