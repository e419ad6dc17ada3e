/** The durable document beside the before-images: kept through a reopen, bounded, and damage is not absence. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Pin } from "../../../image/history/pins.ts";
import { Pins, pinsMax } from "../../../image/history/pins.ts";
import { errorCode } from "../../../runtime/errors.ts";
import { SimWorld } from "../../sim/world/driven.ts";

const path = "/history/pins.json";
const begin = { sequence: 7, chain: new Uint8Array(32).fill(9), dataBytesTotal: 3584, timeMs: 70 };

function pinOf(number: number): Pin {
  return { id: `pin-${number}`, sequence: number, chain: "ab".repeat(32), reason: "a test", timeMs: 5 };
}

test("pins, beginning and order are there again after a reopen; no more than the bound", async () => {
  const world = new SimWorld(1);
  const disk = world.disk.view(world.life());
  await world.drive(disk.makeDirectory("/history"));
  await world.drive(
    (async () => {
      const pins = await Pins.open(disk, path);
      assert.deepEqual([pins.begin, pins.rollBack, pins.list], [undefined, undefined, []]);
      await pins.setBegin(begin);
      for (let number = 0; number < pinsMax; number += 1) await pins.add(pinOf(number));
      await assert.rejects(pins.add(pinOf(pinsMax)), (error) => errorCode(error) === "PINS_FULL");
      await pins.add(pinOf(3));
      await assert.rejects(
        pins.add({ ...pinOf(3), sequence: 4 }),
        (error) => errorCode(error) === "PIN_EXISTS",
      );
      await pins.setRollBack({ ...begin, sequence: 9 });
      assert.equal(await pins.remove("pin-5"), true);
      assert.equal(await pins.remove("pin-5"), false);
      await assert.rejects(
        pins.add({ ...pinOf(5), id: "a/b" }),
        (error) => errorCode(error) === "PIN_INVALID",
      );
      const again = await Pins.open(disk, path);
      assert.deepEqual(again.begin, begin);
      assert.equal(again.rollBack?.sequence, 9);
      assert.deepEqual(again.list, pins.list);
      assert.equal(again.list.length, pinsMax - 1);
      await again.setBegin(undefined);
      assert.equal((await Pins.open(disk, path)).begin, undefined);
      const file = await disk.open(path, "update");
      await file.write(40, Uint8Array.of(0));
      await file.close();
      await assert.rejects(Pins.open(disk, path), (error) => errorCode(error) === "DOCUMENT_DAMAGED");
    })(),
  );
});
