/**
 * The ordered store on the files of a simulated disk, as forgetful as LevelDB may be: what was written since the last
 * `settle` stands in a log that is never synced, and after a loss of power any part of it may be missing, also from the
 * middle; what was settled stands in a table that is synced. Poisoned by its first failed write.
 */
import { join } from "node:path";
import { crc32 } from "node:zlib";
import type { Disk, DiskFile } from "../../../runtime/disk.ts";
import { syncDirectory } from "../../../runtime/disk.ts";
import { errorCode, errorText, OperationalError } from "../../../runtime/errors.ts";
import type { OpenOrderedStore, StoreEntry } from "../../../runtime/ordered-store.ts";
import { MemoryOrderedStore } from "../../support/memory-ordered-store.ts";

/** Records begin at multiples of a sector: a lost one takes no other with it. */
const sectorBytes = 512;
/** Length and checksum before each record. */
const headBytes = 8;

type Change = readonly [key: string, value: string | null];

class SimOrderedStore extends MemoryOrderedStore {
  readonly #disk: Disk;
  readonly #directory: string;
  #log: DiskFile | undefined;
  #generation = 0;
  #at = 0;
  #turn: Promise<unknown> = Promise.resolve();
  #failed: OperationalError | undefined;

  constructor(disk: Disk, directory: string) {
    super();
    this.#disk = disk;
    this.#directory = directory;
  }

  async open(): Promise<void> {
    await this.#disk.makeDirectory(this.#directory);
    const table = await this.#read("table");
    const [record] = table === undefined ? [] : recordsIn(table);
    if (record !== undefined) {
      const { generation, changes } = JSON.parse(record) as { generation: number; changes: Change[] };
      this.#generation = generation;
      this.#lay(changes);
    }
    const log = await this.#read(this.#logName);
    for (const text of recordsIn(log ?? new Uint8Array(0))) this.#lay(JSON.parse(text) as Change[]);
    // What an earlier log kept behind a lost part must not be found again behind what is written now.
    await this.#settleAll();
  }

  get #logName(): string {
    return `log-${this.#generation}`;
  }

  #lay(changes: readonly Change[]): void {
    for (const [key, value] of changes) {
      if (value === null) this.content.delete(key);
      else this.content.set(key, Buffer.from(value, "hex"));
    }
  }

  async #read(name: string): Promise<Uint8Array | undefined> {
    try {
      return await this.#disk.readFile(join(this.#directory, name));
    } catch (error) {
      if (errorCode(error) === "ENOENT") return undefined;
      throw failure("cannot open", error);
    }
  }

  override write(puts: readonly StoreEntry[], deletes: readonly Uint8Array[]): Promise<void> {
    const changes: Change[] = [
      ...puts.map(({ key, value }): Change => [hex(key), hex(value)]),
      ...deletes.map((key): Change => [hex(key), null]),
    ];
    return this.#change(() => this.#append(changes));
  }

  async #append(changes: readonly Change[]): Promise<void> {
    const record = recordOf(JSON.stringify(changes));
    this.#log ??= await this.#disk.open(join(this.#directory, this.#logName), "replace");
    await this.#log.write(this.#at, record);
    this.#at += record.byteLength;
    this.#lay(changes);
  }

  override settle({ key, value }: StoreEntry): Promise<void> {
    const change: Change = [hex(key), hex(value)];
    return this.#change(async () => {
      this.#lay([change]);
      await this.#settleAll();
    });
  }

  async #settleAll(): Promise<void> {
    const old = this.#logName;
    await this.#log?.close();
    this.#log = undefined;
    this.#at = 0;
    this.#generation += 1;
    const changes = [...this.content].map(([key, value]): Change => [key, hex(value)]);
    const path = join(this.#directory, "table");
    const table = await this.#disk.open(`${path}.new`, "replace");
    await table.write(0, recordOf(JSON.stringify({ generation: this.#generation, changes })));
    await table.sync();
    await table.close();
    await this.#disk.rename(`${path}.new`, path);
    await syncDirectory(this.#disk, this.#directory);
    await this.#disk.remove(join(this.#directory, old));
  }

  override clear(): Promise<void> {
    return this.#change(() => this.#append([...this.content.keys()].map((key): Change => [key, null])));
  }

  #change(run: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(async () => {
      if (this.#failed !== undefined) throw this.#failed;
      try {
        await run();
      } catch (error) {
        this.#failed = failure("cannot write", error);
        throw this.#failed;
      }
    });
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  override async close(): Promise<void> {
    await this.#turn;
    await this.#log?.close();
  }
}

export function openSimOrderedStore(disk: Disk): OpenOrderedStore {
  return async (directory) => {
    const store = new SimOrderedStore(disk, directory);
    try {
      await store.open();
    } catch (error) {
      throw error instanceof OperationalError ? error : failure("cannot open", error);
    }
    return store;
  };
}

function recordOf(text: string): Uint8Array {
  const body = Buffer.from(text);
  const bytes = Buffer.alloc(Math.ceil((headBytes + body.byteLength) / sectorBytes) * sectorBytes);
  bytes.writeUInt32BE(body.byteLength, 0);
  bytes.writeUInt32BE(crc32(body), 4);
  body.copy(bytes, headBytes);
  return bytes;
}

function* recordsIn(content: Uint8Array): Generator<string> {
  const bytes = Buffer.from(content.buffer, content.byteOffset, content.byteLength);
  for (let at = 0; at + headBytes <= bytes.byteLength; ) {
    const length = bytes.readUInt32BE(at);
    const body = bytes.subarray(at + headBytes, at + headBytes + length);
    const isWhole = length > 0 && body.byteLength === length && crc32(body) === bytes.readUInt32BE(at + 4);
    if (isWhole) yield body.toString();
    at += isWhole ? Math.ceil((headBytes + length) / sectorBytes) * sectorBytes : sectorBytes;
  }
}

function failure(what: string, cause: unknown): OperationalError {
  return new OperationalError({
    code: "INDEX_FAILED",
    message: `index: ${what}: ${errorText(cause)}`,
    reaction: "reopen",
    cause,
  });
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
