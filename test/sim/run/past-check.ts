/**
 * Reads points of the past out of a running role and holds them against the model: each is the history after exactly
 * so many entries, however often the role has crashed while it kept them. It never influences what the role does.
 */
import type { Past } from "../../../image/past.ts";
import { errorCode, errorText } from "../../../runtime/errors.ts";
import type { SeededRandom } from "../../support/seeded.ts";
import { requireExact } from "../model/content.ts";
import type { History } from "../model/history.ts";
import type { Rot } from "../model/rot.ts";
import { require, Violation } from "../model/violation.ts";

export interface PastQuestion {
  /** Whose past, in words. */
  readonly what: string;
  readonly past: Past;
  readonly history: History;
  readonly seed: number;
  readonly random: SeededRandom;
  readonly rot: Rot | undefined;
  /** Whether a point has to hold a volume that the images have now. */
  readonly mustHold: (volume: number, sequence: number) => boolean;
  /**
   * `glance`: one volume of two points. `whole`: all volumes of the oldest, the newest and one more, and nothing fails
   * any more: a point that cannot be read is a lie.
   */
  readonly how: "glance" | "whole";
  /** The disk has refused reads: what a block held may be lost where it was written over since, and is then said to be. */
  readonly mayLack?: boolean;
}

/** More points than a run makes. */
const pointsMax = 100_000;

/** Answers how many volumes were read and right. Throws a Violation. */
export async function checkPast(question: PastQuestion): Promise<number> {
  const { what, past, random, how } = question;
  let read = 0;
  try {
    if (past.status === null || past.status.bytes === 0) return 0;
    const points = await past.points(0, pointsMax);
    const drawn = random.shuffle(points.slice(1, -1)).slice(0, 1);
    const looked = [...points.slice(0, 1), ...drawn, ...(how === "glance" ? [] : points.slice(-1))];
    for (const point of new Set(looked)) {
      const { sequence } = point;
      const numbers = past.volumesAt(point).map(({ number }) => number);
      judgeLeftOut(question, numbers, sequence);
      for (const volume of how === "glance" ? [random.pick(numbers)] : numbers) {
        await readVolume(question, volume, sequence);
        read += 1;
      }
    }
  } catch (error) {
    // Beside faults a read may fail, and a point may be given back between the list and the look; it may not lie.
    if (error instanceof Violation) throw error;
    if (question.mayLack === true && isLostBlock(error)) return read;
    if (how === "whole") throw new Violation("I2", `${what}: ${errorCode(error)}, ${errorText(error)}`);
  }
  return read;
}

/** A point leaves out what was not whole, and nothing else (VS5). */
function judgeLeftOut(
  { what, past, mustHold }: PastQuestion,
  held: readonly number[],
  sequence: number,
): void {
  for (const { number, name } of past.volumes)
    require("I2", held.includes(number) || !mustHold(number, sequence), () =>
      `${what}: the point at ${sequence} leaves out volume ${name}, which was whole`);
}

/** As a view says it: an I/O error whose cause names the block. */
function isLostBlock(error: unknown): boolean {
  if (errorCode(error) === "BLOCK_LOST") return true;
  return error instanceof Error && error.cause !== undefined && isLostBlock(error.cause);
}

async function readVolume(question: PastQuestion, volume: number, sequence: number): Promise<void> {
  const { what, past, history, seed, rot } = question;
  const view = await past.openView(volume, sequence);
  try {
    const bytes = await view.read(0, view.sizeBytes);
    requireExact({ what: `${what}'s past`, invariant: "I2", history, volume, seed, bytes, sequence, rot });
  } finally {
    await view.close();
  }
}
