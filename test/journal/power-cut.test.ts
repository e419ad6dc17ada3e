/** Power cuts: what was told durable is there, what is there has no hole, and the loss is told (finding 13, promise 1). */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { Child } from "../support/child.ts";
import { PowerCutDisk, powerCutsImpossible } from "../support/power-cut.ts";
import { scriptArguments } from "../support/tree.ts";
import { until } from "../support/wait.ts";
import { Scratch } from "./support/scratch-log.ts";
import { seeded } from "./support/seed.ts";

const appender = scriptArguments("./support/appender", import.meta.url);
/** Long records go into the store itself; short ones into halves of a few of them first. */
const kinds = [
  { recordBytes: 65_536, halfBytes: 0 },
  { recordBytes: 8_192, halfBytes: 256 * 1024 },
];
/** Small, so that logs rotate every 16 frames and a cut meets two of them. */
const writeBufferBytes = 1024 * 1024;

function lastTold(output: string): Record<string, number> {
  const told: Record<string, number> = {};
  for (const line of output.split("\n").slice(0, -1)) {
    const [what, sequence] = line.split(" ");
    told[what!] = Number(sequence);
  }
  return told;
}

for (const { recordBytes, halfBytes } of kinds) {
  test(`power cuts lose nothing that was durable and leave no hole (halves of ${halfBytes} bytes)`, {
    skip: powerCutsImpossible(),
  }, async (t) => {
    const random = seeded(t);
    const cuts = Number(process.env["SPLITSITE_CUTS"] ?? 3);
    const disk = await PowerCutDisk.make();
    try {
      let lost = 0;
      for (let cut = 0; cut < cuts; cut += 1) {
        const bootId = `boot-${cut}`;
        await disk.powerOn();
        const place = new Scratch(disk.mountPoint, halfBytes === 0 ? null : halfBytes);
        if (cut === 0) {
          assert.ok(!existsSync(place.options().directory));
          await (await place.create({ bootId, writeBufferBytes, compression: "none" })).close("clean");
        }
        const child = new Child("appender", process.execPath, [
          ...appender,
          disk.mountPoint,
          String(writeBufferBytes),
          "trim",
          bootId,
          String(recordBytes),
          String(halfBytes),
        ]);
        const wanted = 60 + random(200);
        await until(
          "work to be done",
          () => {
            if (!child.running) throw new Error(`the appender ended: ${child.output.slice(-2000)}`);
            return child.stdout.split("answered ").length > wanted || undefined;
          },
          60_000,
        );
        await disk.cutPower();
        // It may have been told lies only by the disk that is no more; whatever it said before it noticed counts.
        await child.kill();
        const told = lastTold(child.stdout);
        await disk.takeDown();

        await disk.powerOn();
        const { log, recovery } = await place.open({ bootId: `boot-${cut + 1}`, writeBufferBytes });
        t.diagnostic(
          `cut ${cut}: answered ${told["answered"]}, durable ${told["durable"]}, tail ${log.tail.sequence}`,
        );
        assert.ok((told["durable"] ?? 0) > 0, "a cut without durable work proves nothing");
        assert.ok(
          log.tail.sequence >= told["durable"]!,
          `tail ${log.tail.sequence}, durable ${told["durable"]}`,
        );
        assert.deepEqual([recovery.sameBoot, recovery.cleanShutdown], [false, false]);
        const frames = await log.frames(log.head.sequence + 1, 1e9).then((found) => found.length);
        assert.equal(frames, log.tail.sequence - log.head.sequence, "every frame in between is there");
        lost += told["answered"]! - Math.min(log.tail.sequence, told["answered"]!);
        await log.close("abandon");
        await disk.takeDown();
      }
      t.diagnostic(`${lost} answered, never synced records lost in ${cuts} cuts`);
    } finally {
      await disk.destroy();
    }
  });
}
