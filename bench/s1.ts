/** S1: 4 KiB random writes at depth 32, as a ratio to QEMU's own way of keeping a copy elsewhere. */
import { requireTools } from "../test/support/tools.ts";
import type { BenchOptions, Section } from "./section.ts";
import { atLeast, skipped } from "./section.ts";
import { measureWriteRates } from "./write-rates.ts";

const title = "4 KiB random writes, depth 32, durability flush";

export async function measure(options: BenchOptions): Promise<Section> {
  const missing = requireTools("fio", "qemu-nbd", "qemu-storage-daemon");
  if (missing !== false) return skipped("S1", title, missing);
  const [figures] = await measureWriteRates([{ name: "4 KiB qd 32", blockBytes: 4096, depth: 32 }], options);
  return {
    id: "S1",
    title,
    rows: figures!.rows,
    goals: [
      atLeast("journal only / mirrored daemon", figures!.journalOnly, 0.7),
      atLeast("shipping / mirrored daemon", figures!.shipping, 0.45),
    ],
    notes: [
      "client, both sites and their peers share the machine's cores; `drained after` is what was left when the writes stopped",
    ],
  };
}
