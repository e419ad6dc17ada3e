/**
 * A group of volumes in memory that takes writes in an order it decides itself, as the product does, and can be told
 * to lie in the ways that the oracles must catch. For testing the oracles only.
 */
import type { Mutation } from "./expected.ts";
import { ExpectedRecord } from "./expected.ts";
import type { SeededRandom } from "./seeded.ts";
import { stampBytes } from "./stamp.ts";
import type { VolumeState } from "./state-reader.ts";
import { foundZero } from "./state-reader.ts";

/** Applies `order` to empty volumes and shows what each sector holds. */
export function stateAfter(record: ExpectedRecord, order: readonly Mutation[]): VolumeState[] {
  const state = record.volumeBytes.map((bytes) => ({
    found: new Int32Array(bytes / stampBytes).fill(foundZero),
    foreign: [],
  }));
  for (const mutation of order) applyTo(state, mutation);
  return state;
}

export function applyTo(state: readonly VolumeState[], mutation: Mutation): void {
  const { volume, kind, offset, length, number } = mutation;
  state[volume]!.found.fill(
    kind === "write" ? number : foundZero,
    offset / stampBytes,
    (offset + length) / stampBytes,
  );
}

export interface SimulatedRun {
  readonly record: ExpectedRecord;
  /** Everything that happened, in the order of the device. */
  readonly order: readonly Mutation[];
}

/**
 * Runs `count` random mutations with up to `depth` in flight. The device does each at a random moment between its
 * sending and its answer; at the end those still in flight may or may not have happened.
 */
export function simulateRun(
  random: SeededRandom,
  options: {
    readonly count: number;
    readonly depth: number;
    readonly volumeSectors: readonly number[];
    readonly lengthMax: number;
  },
): SimulatedRun {
  const { count, depth, volumeSectors, lengthMax } = options;
  const record = new ExpectedRecord(
    1,
    volumeSectors.map((sectors) => sectors * stampBytes),
  );
  const order: Mutation[] = [];
  const open: { readonly mutation: Mutation; done: boolean }[] = [];
  let sent = 0;
  while (sent < count) {
    const draw = random.below(3);
    if (draw === 0 && open.length < depth) {
      const volume = random.below(volumeSectors.length);
      const sectors = volumeSectors[volume]!;
      const first = random.below(sectors);
      const length = 1 + random.below(Math.min(lengthMax, sectors - first));
      const kind = random.chance(0.75) ? "write" : random.chance(0.5) ? "zeroes" : "trim";
      open.push({
        mutation: record.begin(volume, kind, first * stampBytes, length * stampBytes, false),
        done: false,
      });
      sent += 1;
    } else if (draw === 1 && open.length > 0) {
      const entry = random.pick(open);
      if (!entry.done) order.push(entry.mutation);
      entry.done = true;
    } else if (draw === 2) {
      const done = open.findIndex((entry) => entry.done);
      if (done >= 0) {
        const [entry] = open.splice(done, 1);
        if (random.chance(0.95)) record.answered(entry!.mutation);
        else record.unknown(entry!.mutation);
      } else if (open.length > 0 && random.chance(0.05)) {
        const [entry] = open.splice(random.below(open.length), 1);
        record.refused(entry!.mutation);
      }
    }
  }
  if (random.chance(0.5)) record.settle();
  return { record, order };
}
