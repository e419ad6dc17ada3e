/** S3: latency at depth 1 against a raw append with fdatasync on the same disk, and against qemu-nbd. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TwoSites } from "../test/support/sites.ts";
import { requireTools } from "../test/support/tools.ts";
import { calmest, diskRests, stolenMax } from "./calm.ts";
import { runFio } from "./fio.ts";
import { startJournalOnly, startShipping, unixUri, volumeBytes } from "./installations.ts";
import { pairedLatency } from "./paired-latency.ts";
import { startFloor, startQemuNbd } from "./peers.ts";
import type { BenchOptions, Section } from "./section.ts";
import { atMost, figure, median, skipped } from "./section.ts";

interface Latency {
  readonly p50Us: number;
  readonly p99Us: number;
}

const bare = "raw append + fdatasync";
const beside = "raw append + fdatasync, beside both sites at work";
const floor = "floor: the same, and two syncs";
const floorBeside = "floor: the same, and two syncs, beside both sites at work";
const title = "latency of 4 KiB writes at depth 1";

export async function measure(options: BenchOptions): Promise<Section> {
  const missing = requireTools("fio", "qemu-nbd", "nbdsh");
  if (missing !== false) return skipped("S3", title, missing);
  const folder = await mkdtemp(join(tmpdir(), "splitsite-bench-"));
  const plain = await startQemuNbd(folder, "plain", volumeBytes);
  const server = await startFloor(folder, "memory", volumeBytes);
  const put = await startFloor(folder, "put", volumeBytes);
  const synced = await startFloor(folder, "synced", volumeBytes);
  const safe = await startShipping(folder, { durability: "write" });
  const cached = await startShipping(folder, { durability: "flush" });
  const alone = await startJournalOnly(folder, { durability: "write" });
  const cachedAlone = await startJournalOnly(folder, { durability: "flush" });
  const common = { blockBytes: 4096, depth: 1, seconds: options.seconds, sizeBytes: volumeBytes };
  const nbd = (uri: string, extra: readonly string[] = []) =>
    runFio({ target: { uri }, rw: "randwrite", ...common, extra });
  const paired = (sites: TwoSites) => pairedLatency({ ...common, uri: unixUri(sites, "primary", "data") });
  const raw = async (): Promise<Latency> => {
    // A file of an earlier round would be overwritten, not appended to: its syncs would not grow it.
    const path = join(folder, "raw.log");
    await rm(path, { force: true });
    return runFio({ target: { path }, rw: "write", ...common, extra: ["--sync=dsync", "--overwrite=0"] });
  };
  const besideWork = async (measured: Promise<Latency>): Promise<Latency> =>
    (await Promise.all([measured, nbd(unixUri(safe, "primary", "data"))]))[0];
  // What leaves least work behind comes first.
  const systems: Record<string, () => Promise<Latency>> = {
    [bare]: raw,
    "floor: our NBD server on memory": () => nbd(server.uri),
    "floor: the same and one LevelDB put": () => nbd(put.uri),
    [floor]: () => nbd(synced.uri),
    "qemu-nbd, plain write": () => nbd(plain.uri),
    "durability write, journal only": () => nbd(unixUri(alone, "primary", "data")),
    "durability flush, plain write, journal only": () => nbd(unixUri(cachedAlone, "primary", "data")),
    "durability flush, write + FLUSH, journal only": () => paired(cachedAlone),
    "durability write, plain write": () => nbd(unixUri(safe, "primary", "data")),
    "durability flush, plain write": () => nbd(unixUri(cached, "primary", "data")),
    "durability flush, write + FLUSH": () => paired(cached),
    [beside]: () => besideWork(raw()),
    [floorBeside]: () => besideWork(nbd(synced.uri)),
  };
  // What one leaves in the page cache, qemu-nbd some hundred MB of it, and what stores still compact, would be written while
  // the next is measured.
  const settled = async (): Promise<void> => {
    for (const sites of [safe, cached]) await sites.waitIdle("primary", "dr", 120_000);
    await diskRests(folder);
  };
  try {
    // A program that has just been started compiles; a guest's disk has been served for long.
    options.report("warming up");
    for (const run of Object.values(systems)) await run();
    let stolenMost = 0;
    const seen: Record<string, { p50: number[]; p99: number[] }> = {};
    for (let round = 1; round <= options.rounds; round += 1) {
      for (const [name, run] of Object.entries(systems)) {
        const { value: result, stolen } = await calmest(settled, run);
        stolenMost = Math.max(stolenMost, stolen);
        const own = seen[name] ?? { p50: [], p99: [] };
        seen[name] = own;
        own.p50.push(result.p50Us);
        own.p99.push(result.p99Us);
        options.report(
          `round ${round}, ${name}: p50 ${figure(own.p50.at(-1)!)} us, p99 ${figure(own.p99.at(-1)!)} us, host ${figure(stolen * 100)} %`,
        );
      }
    }
    const ratio = (one: string, other: string, at: "p50" | "p99") =>
      median(seen[one]![at].map((value, round) => value / seen[other]![at][round]!));
    return {
      id: "S3",
      title,
      rows: Object.entries(seen).map(([name, { p50, p99 }]) => ({
        name,
        cells: {
          "p50 us": figure(median(p50)),
          "p99 us": figure(median(p99)),
          "p50 / raw": figure(ratio(name, bare, "p50")),
          "p99 / raw": figure(ratio(name, bare, "p99")),
        },
      })),
      // Of one site by itself, as it is where the two are apart, and with both at work on these cores and this disk.
      goals: [
        ...(["journal only", "both sites here"] as const).flatMap((where) => {
          const [write, plainWrite, flush] = {
            "journal only": [
              "durability write, journal only",
              "durability flush, plain write, journal only",
              "durability flush, write + FLUSH, journal only",
            ] as const,
            "both sites here": [
              "durability write, plain write",
              "durability flush, plain write",
              "durability flush, write + FLUSH",
            ] as const,
          }[where];
          return [
            atMost(`${where}: durability write, p50 / raw`, ratio(write, bare, "p50"), 5),
            atMost(`${where}: durability write, p99 / raw`, ratio(write, bare, "p99"), 10),
            atMost(`${where}: durability flush, write + FLUSH, p50 / raw`, ratio(flush, bare, "p50"), 5),
            atMost(`${where}: durability flush, write + FLUSH, p99 / raw`, ratio(flush, bare, "p99"), 10),
            atMost(
              `${where}: durability flush, plain write, p50 / qemu-nbd`,
              ratio(plainWrite, "qemu-nbd, plain write", "p50"),
              1.2,
            ),
          ];
        }),
      ],
      notes: [
        `the host took ${figure(stolenMost * 100)} % of the processors' time at most; what it took more than ${figure(
          stolenMax * 100,
        )} % from was measured again`,
        `beside both sites at work, which share two cores and the disk with it, a raw append has ${figure(
          ratio(beside, bare, "p99"),
        )} x its own p99, and a server that does nothing but a LevelDB put and the two syncs ${figure(
          ratio(floorBeside, bare, "p99"),
        )} x; alone the latter has ${figure(ratio(floor, bare, "p99"))} x`,
        `a server that answers after one LevelDB put has ${figure(
          ratio("floor: the same and one LevelDB put", "qemu-nbd, plain write", "p50"),
        )} x qemu-nbd's plain write, which only copies into the page cache: what is written ahead does not wait for one`,
        "the standby computes and syncs on the same cores and disk, which two real sites do not: `journal only` is without it",
        `while both sites are at work, durability write has ${figure(
          ratio("durability write, plain write", beside, "p99"),
        )} x, and write + FLUSH ${figure(ratio("durability flush, write + FLUSH", beside, "p99"))} x, the p99 that a raw append has then`,
        "write + FLUSH is one latency, from the request to the second reply, by libnbd's shell; all else is fio's completion latency",
      ],
    };
  } finally {
    await safe.dispose();
    await cached.dispose();
    await alone.dispose();
    await cachedAlone.dispose();
    await plain.stop();
    await server.stop();
    await put.stop();
    await synced.stop();
    await rm(folder, { recursive: true, force: true });
  }
}
