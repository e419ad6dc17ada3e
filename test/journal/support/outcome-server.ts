/** Opens journals for damage.test.ts in a process that may die of it, and answers with what came of each. */
import { errorCode } from "../../../runtime/errors.ts";
import { Scratch, small } from "./scratch-log.ts";

async function outcome(place: Scratch, frames: number): Promise<string> {
  let log: Awaited<ReturnType<Scratch["open"]>>["log"];
  try {
    log = (await place.open(small)).log;
  } catch (error) {
    return errorCode(error);
  }
  try {
    const read = await log.frames(1, 1e9);
    return read.length === frames && read.at(-1)?.last === frames && log.tail.sequence === frames
      ? "whole"
      : "SERVED";
  } catch (error) {
    return errorCode(error);
  } finally {
    await log.close("abandon");
  }
}

process.on("message", (asked: { directory: string; frames: number }) => {
  outcome(new Scratch(asked.directory), asked.frames).then(
    (code) => process.send?.(code),
    (error: unknown) => process.send?.(String(error)),
  );
});
