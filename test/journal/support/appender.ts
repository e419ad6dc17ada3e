/**
 * A process that appends to a frame log for as long as it lives and tells, line by line, what it has promised. Made
 * to be killed. Arguments: folder, write buffer bytes, whether to trim, boot id, bytes of a record, length of a write-ahead
 * half (0: none). Output: `answered N`, `durable N`, `head N`.
 */
import { writeSync } from "node:fs";
import { join } from "node:path";
import type { LevelFrameLog } from "../../../journal/level-frame-log.ts";
import { openFrameLog } from "../../../journal/open.ts";
import { silentLog } from "../../../runtime/log.ts";
import { lineage, nextFrame, origin, Scratch, systemFrameLogWorld } from "./scratch-log.ts";

const [, , directory, buffer, trims, bootId = "boot-1", sizeText = "4096", halfText = "0"] = process.argv;

const sleeper = new Int32Array(new SharedArrayBuffer(4));

/** Said at once and whole, before anything else is done: what stands here was promised to somebody. */
function tell(what: string, sequence: number): void {
  for (;;) {
    try {
      writeSync(1, `${what} ${sequence}\n`);
      return;
    } catch (error) {
      // The reader is slower than we are: nothing of a line this short was taken, and it has to be said before we go on.
      if (!(error instanceof Error && "code" in error && error.code === "EAGAIN")) throw error;
      Atomics.wait(sleeper, 0, 0, 1);
    }
  }
}

const { log: opened } = await openFrameLog(
  {
    directory: join(directory!, "journal"),
    watermarkPath: join(directory!, "watermark"),
    ahead: new Scratch(directory!, halfText === "0" ? null : Number(halfText)).ahead,
    lineage,
    origin,
    mode: "open",
    compression: "none",
    bytesMax: 2 ** 30,
    reserveBytes: 0,
    memoryTailBytes: 0,
    bootId,
    writeBufferBytes: Number(buffer),
  },
  silentLog,
  systemFrameLogWorld,
);
const log = opened as LevelFrameLog;
tell("durable", log.durable.sequence);

async function syncForever(): Promise<void> {
  for (;;) {
    const { sequence } = await log.sync();
    tell("durable", sequence);
    if (trims === "trim" && sequence - log.head.sequence > 100) {
      await log.trim(sequence - 50);
      tell("head", log.head.sequence);
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
}

async function appendForever(): Promise<void> {
  for (;;) {
    await log.append(nextFrame(log.tail, Number(sizeText)));
    tell("answered", log.tail.sequence);
  }
}

await Promise.all([appendForever(), syncForever()]);
