/**
 * S5: bytes on the line for what a real database writes. PostgreSQL and pgbench run on ext4, a loop device, nbdfuse and
 * our NBD export; a tap compresses each write by itself with LZ4, which is what shipping write by write would cost.
 */
import { chmod, chown, mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Child, mustRun } from "../test/support/child.ts";
import { NbdDisk, requireFilesystem } from "../test/support/filesystem.ts";
import type { Relay } from "../test/support/relay.ts";
import { startRelay } from "../test/support/relay.ts";
import { findTool, requireTools } from "../test/support/tools.ts";
import { startShipping } from "./installations.ts";
import type { BenchOptions, Row, Section } from "./section.ts";
import { atMost, figure, skipped } from "./section.ts";
import { TraceTap } from "./trace-tap.ts";

const title = "bytes on the line per byte a database writes";
const scale = 10;
/**
 * Of a trace, all clients together: as many as in the one that the target comes from. A time would give a slow disk a
 * trace of other content: the first change of a page after a checkpoint is written as a whole page, so the fewer
 * transactions, the more of what is written are pages that hardly compress.
 */
const transactionsOfTrace = 122_000;
const traceMsMax = 30 * 60_000;
/** Its last checkpoint goes over the disk that is traced. */
const stopMsMax = 2 * 60_000;
/** Few enough that most commits have a FLUSH of their own, as in the trace that the target comes from. */
const clients = 4;
/** A line as it is for: batches wait for it a little, and so have something to compress together. */
const limit = "10Mbit/s";

interface Traced {
  readonly row: Row;
  /** Bytes on the line to bytes of LZ4 write by write. */
  readonly ratio: number;
}

export async function measure(options: BenchOptions): Promise<Section> {
  const missing = requireFilesystem() || requireTools("postgres", "initdb", "pgbench");
  if (missing !== false) return skipped("S5", title, missing);
  const user = await postgresUser();
  if (user === undefined) return skipped("S5", title, "needs the user postgres");
  const lz4 = await trace("lz4", user, options);
  const brotli = await trace("brotli", user, options);
  return {
    id: "S5",
    title,
    rows: [lz4.row, brotli.row],
    goals: [
      atMost("lz4: line bytes / LZ4 per write", lz4.ratio, 0.45),
      atMost("brotli: line bytes / LZ4 per write", brotli.ratio, 0.22),
    ],
    notes: [
      `pgbench, scale ${scale}, ${figure(transactionsOfTrace)} transactions, ${clients} clients, PostgreSQL as installed, shipped as it comes over a line of ${limit} and 20 ms round trip; TLS and HTTP included`,
      "same codec per MiB: the trace packed a MiB at a time without header, chain, TLS or waiting: the floor",
      "each codec has its own run, and its own trace to be compared with",
    ],
  };
}

interface User {
  readonly uid: number;
  readonly gid: number;
}

async function postgresUser(): Promise<User | undefined> {
  const match = /^postgres:[^:]*:(\d+):(\d+):/m.exec(await readFile("/etc/passwd", "utf8"));
  return match === null ? undefined : { uid: Number(match[1]), gid: Number(match[2]) };
}

async function trace(codec: "lz4" | "brotli", user: User, options: BenchOptions): Promise<Traced> {
  const folder = await mkdtemp(join(tmpdir(), "splitsite-bench-"));
  await chmod(folder, 0o755);
  let relay: Relay | undefined;
  const sites = await startShipping(folder, {
    codec,
    limit,
    line: async (port) => {
      relay = await startRelay({ target: { host: "127.0.0.1", port }, listenPort: 0, delayMs: 10 });
      return relay.port;
    },
  });
  const tap = await TraceTap.listen(join(folder, "tap.sock"), sites.nbdSocket("primary"));
  let disk: NbdDisk | undefined;
  let server: Child | undefined;
  try {
    disk = await NbdDisk.attach(
      `nbd+unix:///${sites.exportOf("data")}?socket=${tap.path}`,
      join(folder, "disk"),
    );
    await disk.format();
    await disk.mount();
    const data = join(disk.mountPoint, "pg");
    const run = join(folder, "run");
    for (const path of [data, run]) {
      await mkdir(path, { mode: 0o700 });
      await chown(path, user.uid, user.gid);
    }
    const program = (name: string) => findTool(name)!;
    const asUser = { ...user, cwd: run, env: { ...process.env, HOME: run, LC_ALL: "C" } };
    await mustRun(program("initdb"), ["-D", data, "-A", "trust", "-U", "postgres"], asUser);
    server = new Child(
      "postgres",
      program("postgres"),
      ["-D", data, "-k", run, "-c", "listen_addresses="],
      asUser,
    );
    await server.waitForOutput(/ready to accept connections/);
    const pgbench = [program("pgbench"), "-h", run, "-U", "postgres"] as const;
    await mustRun(pgbench[0], [...pgbench.slice(1), "-i", "-q", "-s", String(scale), "postgres"], asUser);
    await mustRun(findTool("sync")!, ["-f", disk.mountPoint]);
    await sites.waitIdle("primary", "dr", 120_000).catch(() => undefined);
    const before = { ...tap.counters, line: relay!.counters.upBytes };
    options.report(`${codec}: ${figure(transactionsOfTrace)} transactions, some minutes`);
    const each = String(transactionsOfTrace / clients);
    const text = await mustRun(
      pgbench[0],
      [...pgbench.slice(1), "-n", "-t", each, "-c", String(clients), "postgres"],
      { ...asUser, timeoutMs: traceMsMax },
    );
    const transactions = Number(/actually processed: (\d+)/.exec(text)?.[1] ?? Number.NaN);
    await server.stop(stopMsMax);
    await disk.unmount();
    await sites.waitIdle("primary", "dr", 300_000);
    if (tap.lost) throw new Error("the tap lost track of the client's requests");
    const written = tap.counters.writtenBytes - before.writtenBytes;
    const line = relay!.counters.upBytes - before.line;
    const packed = await tap.pack(before.writes, tap.counters.writes);
    const perWrite = packed.lz4PerWriteBytes;
    const perMebibyte = codec === "lz4" ? packed.lz4PerMebibyteBytes : packed.brotliPerMebibyteBytes;
    options.report(`${codec}: ${figure(written / 1e6)} MB written, ${figure(line / 1e6)} MB on the line`);
    return {
      ratio: line / perWrite,
      row: {
        name: codec,
        cells: {
          transactions: figure(transactions),
          writes: figure(tap.counters.writes - before.writes),
          flushes: figure(tap.counters.flushes - before.flushes),
          "written MB": figure(written / 1e6),
          "LZ4 per write MB": figure(perWrite / 1e6),
          "same codec per MiB MB": figure(perMebibyte / 1e6),
          "line MB": figure(line / 1e6),
          "written / line": figure(written / line),
        },
      },
    };
  } finally {
    if (server?.running === true) await server.kill();
    await disk?.detach();
    await tap.close();
    await sites.dispose();
    await relay?.close();
    await rm(folder, { recursive: true, force: true });
  }
}
