/** S2: large writes, half compressible, as a ratio to QEMU's own way of keeping a copy elsewhere. */
import { requireTools } from "../test/support/tools.ts";
import type { BenchOptions, Section } from "./section.ts";
import { atLeast, skipped } from "./section.ts";
import { measureWriteRates } from "./write-rates.ts";

const title = "64 KiB at depth 16 and 1 MiB at depth 8, half compressible";

export async function measure(options: BenchOptions): Promise<Section> {
  const missing = requireTools("fio", "qemu-nbd", "qemu-storage-daemon");
  if (missing !== false) return skipped("S2", title, missing);
  const figures = await measureWriteRates(
    [
      { name: "64 KiB qd 16", blockBytes: 65536, depth: 16 },
      { name: "1 MiB qd 8", blockBytes: 1 << 20, depth: 8 },
    ],
    options,
  );
  return {
    id: "S2",
    title,
    rows: figures.flatMap(({ rows }) => rows),
    goals: figures.flatMap(({ shape, journalOnly, shipping }) => [
      atLeast(`${shape.name}: journal only / mirrored daemon`, journalOnly, 0.3),
      atLeast(`${shape.name}: shipping / mirrored daemon`, shipping, 0.15),
    ]),
    notes: [
      "a background mirror may fall behind without saying so; ours is drained before the next measurement",
    ],
  };
}
