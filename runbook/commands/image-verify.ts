/**
 * `image verify FILE`: checks an image against the digest of the point that it was exported at. Offline: no site is asked and
 * none is trusted. Holes are not read. Changes nothing.
 */
import type { FileHandle } from "node:fs/promises";
import { open } from "node:fs/promises";
import { ExitCode } from "../../protocol/admin.ts";
import { parsePoint } from "../../protocol/point.ts";
import type { PointRecord, VolumeDigest } from "../../protocol/point-digest.ts";
import { VolumeDigester } from "../../protocol/point-digest.ts";
import { errorCode } from "../../runtime/errors.ts";
import type { Call, CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { CommandFailure, usageFailure } from "../failure.ts";
import { readRecord, recordPath } from "../point-record.ts";
import type { Progress } from "../render/progress.ts";
import { createProgress } from "../render/progress.ts";
import { bytesText, countText } from "../render/quantities.ts";

/** Progress is shown this often, bytes. */
const progressBytes = 64 * 1024 * 1024;
const offlineForm = "a sequence, or a time such as 2026-03-02T10:14:06Z";

interface ImageVerdict {
  readonly sound: boolean;
  readonly file: string;
  readonly group: string;
  readonly volume: string;
  readonly sequence: number;
  readonly time: string | null;
  readonly chain: string;
  /** Of the group at the point. */
  readonly digest: string;
  /** Digests of the volume: as recorded, and as read; null: the file has another size. */
  readonly expected: string;
  readonly found: string | null;
  readonly sizeBytes: number;
  readonly problem: { readonly code: string; readonly message: string } | null;
}

export const imageVerify: CommandSpec = {
  path: ["image", "verify"],
  summary: "check an exported image against the digest of its point, without any site",
  detail:
    "Reads FILE and FILE.point.json, nothing else. With --digest, the digest of the group that you have from somewhere else, nobody needs to be trusted but that; with --point the record must be of that point. Exit 7 when the image, or the record, is not what it should be.",
  arguments: [{ name: "FILE", summary: "the raw image", required: true }],
  options: [
    { flags: "--point POINT", summary: `the point it must be of: ${offlineForm}` },
    { flags: "--volume NAME", summary: "the volume it must be (default: the one it was exported as)" },
    { flags: "--digest HEX", summary: "the digest of the group at the point, from `points --digest`" },
    { flags: "--record FILE", summary: "the record (default: FILE.point.json)" },
  ],
  examples: [
    "splitsite image verify erp-data.img",
    "splitsite image verify erp-data.img --point 806 --digest 5f1d3a55f1d3a55f1d3a55f1d3a55f1d3a55f1d3a55f1d3a55f1d3a55f1d3a55",
  ],
  changes: false,
  async run(call) {
    const path = call.argument("FILE") ?? "";
    const record = await readRecord(call.option("record") ?? recordPath(path));
    requirePoint(call, record);
    requireDigest(call, record);
    const name = call.option("volume") ?? record.volume;
    const volume = record.volumes.find((each) => each.name === name);
    if (volume === undefined) {
      const names = record.volumes.map((each) => each.name).join(", ");
      throw usageFailure(`the record has no volume \`${name}\``, `Name one of: ${names}.`);
    }
    const progress = await createProgress(call.terminal, call.json);
    let verdict: ImageVerdict;
    try {
      verdict = judge(path, record, volume, await digestFile(path, volume, progress));
    } finally {
      progress.stop();
    }
    answer(call, verdict, () => verdictText(verdict));
    return verdict.sound ? ExitCode.done : ExitCode.foundProblem;
  },
};

function requirePoint(call: Call, { sequence, time }: PointRecord): void {
  const text = call.option("point");
  if (text === undefined) return;
  const choice = parsePoint(text);
  if (choice === undefined || choice.kind === "latest")
    throw usageFailure(`--point is \`${text}\`, must be ${offlineForm}`);
  // A time is a label to the millisecond at the sites; here it may be written to the second.
  const same =
    choice.kind === "sequence"
      ? choice.sequence === sequence
      : time !== null && Math.floor(Date.parse(time) / 1_000) === Math.floor(choice.timeMs / 1_000);
  if (same) return;
  throw new CommandFailure({
    exit: ExitCode.foundProblem,
    id: "POINT_DIFFERS",
    message: `the record is of the point ${sequence}, ${time ?? "the beginning"}`,
    next: "Name that point, or take the image and record of the other one.",
  });
}

function requireDigest(call: Call, { digest }: PointRecord): void {
  const text = call.option("digest")?.toLowerCase();
  if (text === undefined) return;
  if (!/^[0-9a-f]{64}$/.test(text)) throw usageFailure("--digest must be 64 hexadecimal digits");
  if (text === digest) return;
  throw new CommandFailure({
    exit: ExitCode.foundProblem,
    id: "DIGEST_DIFFERS",
    message: "the record is not of the point that this digest is of",
    next: "Compare group and sequence of the record with those the digest was told for.",
  });
}

type Libc = typeof import("../../block/libc.ts");

/** Undefined: the file has another size than the volume. */
async function digestFile(
  path: string,
  volume: VolumeDigest,
  progress: Progress,
): Promise<string | undefined> {
  // Loaded here: no other command calls the system's library.
  const libc = await import("../../block/libc.ts");
  let file: FileHandle;
  try {
    file = await open(path, "r");
  } catch (error) {
    throw usageFailure(`${path} cannot be read: ${errorCode(error)}`, "Name a file that exists.");
  }
  try {
    if ((await sizeOf(libc, file)) !== volume.sizeBytes) return undefined;
    const digester = new VolumeDigester(volume.sizeBytes);
    let shown = Number.NEGATIVE_INFINITY;
    // Where the next data begins, as far as it is known.
    let data = 0;
    while (digester.nextBytes > 0) {
      const { offset, nextBytes } = digester;
      if (data <= offset) data = dataFrom(libc, file.fd, offset);
      if (data >= offset + nextBytes) digester.addZeroes();
      else digester.add(await readAll(file, offset, nextBytes));
      if (offset - shown < progressBytes) continue;
      shown = offset;
      const message = `volume ${volume.name}`;
      const time = new Date().toISOString();
      progress.show({
        type: "progress",
        step: "verify",
        message,
        time,
        done: offset,
        total: volume.sizeBytes,
      });
    }
    return digester.end();
  } finally {
    await file.close();
  }
}

/** A block device says its size only by its end. */
async function sizeOf({ endOffset }: Libc, file: FileHandle): Promise<number> {
  const { size } = await file.stat();
  if (size > 0) return size;
  const end = endOffset(file.fd);
  return end === "unsupported" ? size : end;
}

/** Where the first byte that may not be zero lies; a file system that cannot tell is read whole. */
function dataFrom({ nextData }: Libc, fd: number, offset: number): number {
  const found = nextData(fd, offset);
  if (found === "none") return Number.POSITIVE_INFINITY;
  return found === "unsupported" ? offset : found;
}

async function readAll(file: FileHandle, offset: number, length: number): Promise<Uint8Array> {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; ) {
    const { bytesRead } = await file.read(bytes, at, length - at, offset + at);
    if (bytesRead === 0) {
      throw new CommandFailure({
        exit: ExitCode.failed,
        id: "FILE_CHANGED",
        message: "the file became shorter while it was read",
        next: "Let nothing write to it, and verify again.",
      });
    }
    at += bytesRead;
  }
  return bytes;
}

function judge(
  file: string,
  record: PointRecord,
  volume: VolumeDigest,
  found: string | undefined,
): ImageVerdict {
  const { group, sequence, time, chain, digest } = record;
  const problem =
    found === undefined
      ? { code: "SIZE_DIFFERS", message: `the volume has ${volume.sizeBytes} bytes` }
      : found === volume.digest
        ? null
        : { code: "CONTENT_DIFFERS", message: "the content is not what the volume held at this point" };
  return {
    sound: problem === null,
    ...{ file, group, volume: volume.name, sequence, time, chain, digest },
    ...{ expected: volume.digest, found: found ?? null, sizeBytes: volume.sizeBytes, problem },
  };
}

function verdictText(verdict: ImageVerdict): string {
  const { file, group, volume, sequence, time, sizeBytes, digest, problem } = verdict;
  const point = `${group}/${volume} at ${countText(sequence)}  ${time ?? "the beginning"}`;
  if (problem !== null) return `${file}: PROBLEM ${problem.code}: ${problem.message}, ${point}\n`;
  return `${file}: sound, ${point}, ${bytesText(sizeBytes)}\ndigest of the group ${digest}\n`;
}
