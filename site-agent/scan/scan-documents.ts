/**
 * What a group's scans have on disk: `scan.json`, the one under way and its place, and `verify.json`, what the last ones found
 * and what was repaired. The one place that reads and writes them. A document that cannot be believed is told and left behind:
 * a first sync begins anew by itself.
 */
import { dirname } from "node:path";
import { fieldsOf } from "../../protocol/fields.ts";
import type { VerifyResult } from "../../protocol/status.ts";
import type { Disk } from "../../runtime/disk.ts";
import { syncDirectory } from "../../runtime/disk.ts";
import { readDocument, writeDocument } from "../../runtime/durable-document.ts";
import { errorCode, errorText } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { AgentGroupPaths } from "../../runtime/paths.ts";
import { Turns } from "../../runtime/turns.ts";
import type { Repairs } from "./repairs.ts";
import { noRepairs, parseRepairs } from "./repairs.ts";
import type { ScanDocument } from "./scan-document.ts";
import { parseScanDocument, parseVerifyResults } from "./scan-document.ts";

interface Found {
  readonly results: readonly VerifyResult[];
  readonly repairs: Repairs;
}

export class ScanDocuments {
  readonly #disk: Disk;
  readonly #paths: Pick<AgentGroupPaths, "scan" | "verify">;
  readonly #log: Log;
  #scan: ScanDocument | null = null;
  #found: Found = { results: [], repairs: noRepairs };
  #isRead = false;
  readonly #saves = new Turns();

  constructor(disk: Disk, paths: Pick<AgentGroupPaths, "scan" | "verify">, log: Log) {
    this.#disk = disk;
    this.#paths = paths;
    this.#log = log;
  }

  /** The scan under way; null: none is. */
  get scan(): ScanDocument | null {
    return this.#scan;
  }

  /** Newest first. */
  get results(): readonly VerifyResult[] {
    return this.#found.results;
  }

  get repairs(): Repairs {
    return this.#found.repairs;
  }

  /** Once in a life. */
  async read(): Promise<void> {
    if (this.#isRead) return;
    this.#scan = (await this.#readOne(this.#paths.scan, parseScanDocument)) ?? null;
    const kept = await this.#readOne(this.#paths.verify, (value) => ({
      results: parseVerifyResults(value),
      repairs: parseRepairs(fieldsOf(value, "verify")["repairs"]),
    }));
    this.#found = kept ?? { results: [], repairs: noRepairs };
    this.#isRead = true;
  }

  /** One after another, in the order of the calls: the newest is what stays. Survives power loss when it settles. */
  save(scan: ScanDocument): Promise<void> {
    return this.#saves.take(async () => {
      await writeDocument(this.#disk, this.#paths.scan, scan);
      this.#scan = scan;
    });
  }

  /** The scan is over. */
  async forget(): Promise<void> {
    // A place that was being saved when the scan ended must not bring the document back.
    await this.#saves.settled();
    await this.#disk.remove(this.#paths.scan);
    await syncDirectory(this.#disk, dirname(this.#paths.scan));
    this.#scan = null;
  }

  /** Told from now on, whether it can be written or not; survives power loss when it settles. */
  note(found: Partial<Found>): Promise<void> {
    this.#found = { ...this.#found, ...found };
    return writeDocument(this.#disk, this.#paths.verify, this.#found);
  }

  async #readOne<T>(path: string, parse: (value: unknown) => T): Promise<T | undefined> {
    try {
      return await readDocument(this.#disk, path, parse);
    } catch (error) {
      if (errorCode(error) !== "DOCUMENT_DAMAGED") throw error;
      this.#log.error("SCAN_DOCUMENT_DAMAGED", errorText(error), error);
      return undefined;
    }
  }
}
