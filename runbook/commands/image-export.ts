/**
 * `image export GROUP/VOLUME FILE`: a volume as it was at a point, as a sparse file. Never writes into a file that is
 * there already, and leaves none behind whose content is not proven.
 */
import { createHash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { open, rm } from "node:fs/promises";
import type { ExportedPoint } from "../../protocol/admin.ts";
import { adminRoutes, ExitCode } from "../../protocol/admin.ts";
import { parsePoint, pointForm } from "../../protocol/point.ts";
import { errorCode } from "../../runtime/errors.ts";
import { AdminClient } from "../admin-client.ts";
import type { CommandSpec } from "../command.ts";
import { answer } from "../command.ts";
import { findVolume } from "../configured-group.ts";
import { CommandFailure, usageFailure } from "../failure.ts";
import { pastHolder } from "../past-holder.ts";
import { fileExists, recordPath, requireAbsent, writeRecord } from "../point-record.ts";
import { createProgress } from "../render/progress.ts";
import { bytesText, countText } from "../render/quantities.ts";
import { makeDigest } from "./points.ts";

const zeroBytes = Buffer.alloc(1024 * 1024);

export const imageExport: CommandSpec = {
  path: ["image", "export"],
  summary: "write a volume as it was at a point into a file",
  detail:
    "Run it at the site that keeps the points. Replication goes on meanwhile. FILE is made, sparse, and must not exist; the content is verified by its SHA-256. Beside it FILE.point.json tells what `image verify` needs to check it anywhere, without either site: the digests of all volumes of the group at that point, which are read for it once.",
  arguments: [
    { name: "VOLUME", summary: "GROUP/VOLUME, or VOLUME if only one group has it", required: true },
    { name: "FILE", summary: "the raw image to make", required: true },
  ],
  options: [
    { flags: "--point POINT", summary: `${pointForm} (default latest)` },
    { flags: "--without-digest", summary: "write no FILE.point.json, and read this volume only" },
  ],
  examples: [
    "splitsite image export erp/data erp-data.img --site dr",
    "splitsite image export erp/data before.img --point 2026-03-02T10:14:06Z",
  ],
  changes: true,
  async run(call) {
    const point = call.option("point") ?? "latest";
    if (point.startsWith("mark:")) throw usageFailure("bookmarks are not built yet", `Name ${pointForm}.`);
    if (parsePoint(point) === undefined) throw usageFailure(`--point is \`${point}\`, must be ${pointForm}`);
    const { group, volume } = findVolume((await call.settings()).groups, call.argument("VOLUME") ?? "");
    const path = call.argument("FILE") ?? "";
    const client = new AdminClient(await call.site(), call.timeoutMs);
    const role = await pastHolder(client, group.name);
    if (call.dryRun) {
      const planned = { dryRun: true, group: group.name, volume: volume.name, point, file: path };
      answer(call, planned, () => `would write ${group.name}/${volume.name} at ${point} to ${path}\n`);
      return ExitCode.done;
    }
    const beside = recordPath(path);
    // Before hours are spent on a digest.
    for (const each of call.flag("without-digest") ? [path] : [path, beside]) await requireAbsent(each);
    // First: what is exported is the very point that the digest is of.
    const digest = call.flag("without-digest")
      ? undefined
      : await makeDigest(call, client, role, group.name, point);
    const query = new URLSearchParams({
      volume: volume.name,
      point: digest === undefined ? point : String(digest.sequence),
    });
    const order = {
      method: "GET",
      path: `${adminRoutes.pointContent(role, group.name)}?${query}`,
    } as const;
    const progress = await createProgress(call.terminal, call.json);
    let result: ExportedPoint;
    try {
      result = await writeWhole(path, async (file) =>
        client.follow<ExportedPoint>(
          role,
          order,
          (line) => progress.show(line),
          ({ offset, base64 }) => file.put(offset, Buffer.from(base64, "base64")),
        ),
      );
    } finally {
      progress.stop();
    }
    if (digest !== undefined) await writeRecord(beside, { version: 1, volume: volume.name, ...digest });
    const record = digest === undefined ? null : { file: beside, digest: digest.digest };
    answer(call, { ...result, file: path, record }, () => {
      const size = bytesText(result.sizeBytes);
      return `${path}: ${group.name}/${volume.name} at ${countText(result.sequence)}  ${result.time ?? "the beginning"}, ${size}\nsha256 ${result.sha256}\n${record === null ? "" : `digest of the group at this point ${record.digest}, in ${beside}\n`}`;
    });
    return ExitCode.done;
  },
};

/** Content in rising order, with holes; knows its digest. */
class SparseFile {
  readonly #file: FileHandle;
  readonly #hash = createHash("sha256");
  #end = 0;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  async put(offset: number, bytes: Uint8Array): Promise<void> {
    this.#skipTo(offset);
    this.#hash.update(bytes);
    this.#end += bytes.byteLength;
    for (let at = 0; at < bytes.byteLength; ) {
      at += (await this.#file.write(bytes, at, bytes.byteLength - at, offset + at)).bytesWritten;
    }
  }

  #skipTo(offset: number): void {
    if (offset < this.#end) throw damagedAnswer();
    for (; this.#end < offset; ) {
      const length = Math.min(zeroBytes.byteLength, offset - this.#end);
      this.#hash.update(zeroBytes.subarray(0, length));
      this.#end += length;
    }
  }

  /** Durable when it settles. */
  async finish({ sizeBytes, sha256 }: ExportedPoint): Promise<void> {
    this.#skipTo(sizeBytes);
    if (this.#hash.digest("hex") !== sha256) throw damagedAnswer();
    await this.#file.truncate(sizeBytes);
    await this.#file.sync();
  }
}

async function writeWhole(
  path: string,
  fill: (file: SparseFile) => Promise<ExportedPoint>,
): Promise<ExportedPoint> {
  const handle = await openNew(path);
  try {
    const file = new SparseFile(handle);
    const result = await fill(file);
    await file.finish(result);
    await handle.close();
    return result;
  } catch (error) {
    await handle.close();
    // Ours alone: it was made by this very call.
    await rm(path, { force: true });
    throw error;
  }
}

async function openNew(path: string): Promise<FileHandle> {
  try {
    return await open(path, "wx", 0o600);
  } catch (error) {
    if (errorCode(error) !== "EEXIST") throw error;
    throw fileExists(path);
  }
}

function damagedAnswer(): CommandFailure {
  return new CommandFailure({
    exit: ExitCode.failed,
    id: "EXPORT_DAMAGED",
    message: "what arrived is not what was read",
    next: "Run it again; if it repeats, look at the memory of this host.",
  });
}
