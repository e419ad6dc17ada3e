/** The record beside an exported image: which point it is of, and what its volumes held there (docs/formats/point-digest.md). */
import { access, open, readFile } from "node:fs/promises";
import { ExitCode } from "../protocol/admin.ts";
import type { PointRecord } from "../protocol/point-digest.ts";
import { parsePointRecord, pointDigest } from "../protocol/point-digest.ts";
import { errorCode } from "../runtime/errors.ts";
import { CommandFailure } from "./failure.ts";

/** 256 volumes of some 200 bytes each, with room. */
const recordBytesMax = 256 * 1024;

export function recordPath(image: string): string {
  return `${image}.point.json`;
}

/** CommandFailure `FILE_EXISTS`: nothing is ever written over. */
export async function requireAbsent(path: string): Promise<void> {
  try {
    await access(path);
  } catch {
    return;
  }
  throw fileExists(path);
}

export function fileExists(path: string): CommandFailure {
  return new CommandFailure({
    exit: ExitCode.refused,
    id: "FILE_EXISTS",
    message: `${path} is there already`,
    next: "Name a file that does not exist.",
  });
}

/** Durable when it settles. */
export async function writeRecord(path: string, record: PointRecord): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    await file.writeFile(`${JSON.stringify(record, null, 1)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** CommandFailures `RECORD_MISSING`, `RECORD_DAMAGED`: it is no record, or says a digest that does not follow from it. */
export async function readRecord(path: string): Promise<PointRecord> {
  const failure = (exit: ExitCode, id: string, message: string, next: string): CommandFailure =>
    new CommandFailure({ exit, id, message, next });
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    const message = `${path} cannot be read: ${errorCode(error)}`;
    throw failure(
      ExitCode.usage,
      "RECORD_MISSING",
      message,
      "Name the file that `image export` wrote, with --record.",
    );
  }
  const next = "Take the record from where the image came from once more.";
  let record: PointRecord;
  try {
    if (bytes.byteLength > recordBytesMax) throw new RangeError("too long");
    record = parsePointRecord(JSON.parse(bytes.toString("utf8")));
  } catch {
    throw failure(ExitCode.foundProblem, "RECORD_DAMAGED", `${path} is no record of a point`, next);
  }
  if (pointDigest(record) === record.digest) return record;
  const message = `${path}: its digest does not follow from what it says`;
  throw failure(ExitCode.foundProblem, "RECORD_DAMAGED", message, next);
}
