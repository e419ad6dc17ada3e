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

/** What is asked of a past. */
export type AskedPast = Pick<Past, "status" | "points" | "volumes" | "volumesAt" | "openView">;

export interface PastQuestion {
  /** Whose past, in words. */
  readonly what: string;
  readonly past: AskedPast;
  readonly history: History;
  readonly seed: number;
  readonly random: SeededRandom;
  readonly rot: Rot | undefined;
  /** Whether a point has to hold a volume that the images have now. */
  readonly mustHold: (volume: number, sequence: number) => boolean;
  /**
   * `glance`: one volume of two points. `whole`: all volumes of the oldest, the newest and one more, and nothing fails
   * any more: a point that cannot be read is a lie, unless it was given back since it was listed.
   */
  readonly how: "glance" | "whole";
  /** The disk has refused reads: what a block held may be lost where it was written over since, and is then said to be. */
  readonly mayLack?: boolean;
}

/** More points than a run makes. */
const pointsMax = 100_000;

/**
 * Lists that are looked at until nothing is given back under a look. Points are given back behind steps alone, once a
 * second at most, and in the end clients rest: what the last step gives back can spoil one list, and a step that was
 * still under way one more.
 */
const listsMax = 3;

/** Answers how many volumes were read and right. Throws a Violation. */
export async function checkPast(question: PastQuestion): Promise<number> {
  const { what, past, how } = question;
  const read = { volumes: 0 };
  try {
    if (past.status === null || past.status.bytes === 0) return 0;
    for (let lists = 0; lists < listsMax; lists += 1)
      if (await lookAtList(question, read)) return read.volumes;
    throw new Violation("I2", `${what}: points were given back under each of ${listsMax} looks`);
  } catch (error) {
    // Beside faults a read may fail, and a point may be given back between the list and the look; it may not lie.
    if (error instanceof Violation) throw error;
    if (question.mayLack === true && isLostBlock(error)) return read.volumes;
    if (how === "whole") throw new Violation("I2", `${what}: ${errorCode(error)}, ${errorText(error)}`);
  }
  return read.volumes;
}

/** Lists the points and reads some of them. False: one was given back meanwhile, and the list is worth nothing. */
async function lookAtList(question: PastQuestion, read: { volumes: number }): Promise<boolean> {
  const { past, random, how } = question;
  const begunAt = past.status?.oldest ?? 0;
  const points = await past.points(0, pointsMax);
  const drawn = random.shuffle(points.slice(1, -1)).slice(0, 1);
  const looked = [...points.slice(0, 1), ...drawn, ...(how === "glance" ? [] : points.slice(-1))];
  for (const point of new Set(looked)) {
    const { sequence } = point;
    const numbers = past.volumesAt(point).map(({ number }) => number);
    judgeLeftOut(question, numbers, sequence);
    for (const volume of how === "glance" ? [random.pick(numbers)] : numbers) {
      try {
        await readVolume(question, volume, sequence);
      } catch (error) {
        const isUnknown = how === "whole" && errorCode(error) === "POINT_UNKNOWN";
        if (isUnknown && isGivenBack(past, sequence, begunAt)) return false;
        throw error;
      }
      read.volumes += 1;
    }
  }
  return true;
}

/**
 * Whether a point of a list, asked for when the history began at `begunAt`, may be unknown now. A list holds nothing:
 * a history that is too long, or too old, may begin behind its oldest points a moment later. Nothing else makes a point
 * unknown: none was to be listed before `begunAt`, and a pin from there up to the point would have kept it.
 */
function isGivenBack({ status }: AskedPast, point: number, begunAt: number): boolean {
  if (status === null || point < begunAt || status.oldest <= point) return false;
  return !status.pins.some(({ sequence }) => sequence >= begunAt && sequence <= point);
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
