/** A kill of the process at any instruction loses nothing that was answered (promise 1). */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { scriptArguments } from "../support/tree.ts";
import { Scratch } from "./support/scratch-log.ts";
import { seeded } from "./support/seed.ts";

const appender = scriptArguments("./support/appender", import.meta.url);

/** Runs the appender until it has answered `appends` times, kills it, and returns the last value of each word. */
async function runAndKill(
  directory: string,
  trims: string,
  halfBytes: number,
  appends: number,
): Promise<Record<string, number>> {
  const child = spawn(
    process.execPath,
    [...appender, directory, String(64 * 1024), trims, "boot-1", "4096", String(halfBytes)],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  let output = "";
  // Only answers count: on a busy machine there may be any number of other lines before the first of them.
  const seen = () => output.split("\nanswered ").length - 1;
  child.stdout.setEncoding("latin1");
  child.stdout.on("data", (text: string) => {
    output += text;
    if (seen() > appends) child.kill("SIGKILL");
  });
  await once(child, "close");
  const told: Record<string, number> = {};
  for (const line of output.split("\n").slice(0, -1)) {
    const [what, sequence] = line.split(" ");
    told[what!] = Number(sequence);
  }
  assert.ok(seen() > appends, `the appender ended by itself: ${output.slice(-200)}`);
  return told;
}

for (const [trims, halfBytes] of [
  ["keep", 0],
  ["trim", 0],
  ["keep", 32 * 1024],
  ["trim", 32 * 1024],
] as const) {
  test(`answered appends survive kill -9 (${trims}, halves of ${halfBytes} bytes)`, async (t) => {
    const random = seeded(t);
    const place = new Scratch(undefined, halfBytes === 0 ? null : halfBytes);
    try {
      await (await place.create({ compression: "none", writeBufferBytes: 64 * 1024 })).close("clean");
      const rounds = Number(process.env["SPLITSITE_KILLS"] ?? 4);
      let before = 0;
      for (let round = 0; round < rounds; round += 1) {
        const told = await runAndKill(place.directory, trims, halfBytes, 200 + random(500));
        const { log, recovery } = await place.open({ writeBufferBytes: 64 * 1024 });
        const answered = told["answered"] ?? before;
        assert.ok(answered > before, "a run without work proves nothing");
        assert.ok(log.tail.sequence >= answered, `tail ${log.tail.sequence}, answered ${answered}`);
        assert.ok(log.tail.sequence <= answered + 1, "at most the append under way came on top");
        assert.ok(recovery.answered >= answered && recovery.answered <= log.tail.sequence);
        assert.ok(log.head.sequence >= (told["head"] ?? 0));
        assert.deepEqual([recovery.sameBoot, recovery.cleanShutdown], [true, false]);
        assert.equal(log.durable.sequence, log.tail.sequence, "durable again once it is open");
        const read = await log.frames(log.head.sequence + 1, 1e9);
        assert.equal(read.length, log.tail.sequence - log.head.sequence);
        before = log.tail.sequence;
        await log.close(round % 2 === 0 ? "abandon" : "clean");
      }
    } finally {
      place.remove();
    }
  });
}
