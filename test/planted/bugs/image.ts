/** Planted bugs of the images: folding, the marker, and what a sync covers. */
import type { PlantedBug } from "../planted-bug.ts";

const group = "test/image/group-image.test.ts";

export const imageBugs: readonly PlantedBug[] = [
  {
    id: "image/overlaps-in-the-wrong-order",
    does: "Of two overlapping writes in one step the older one wins.",
    file: "image/fold.ts",
    find: "      if (ages[parent]! >= age) break;\n",
    replace: "      if (ages[parent]! <= age) break;\n",
    caughtBy: [{ file: "test/image/fold.test.ts" }],
    budgetSeconds: 30,
  },
  {
    id: "image/trims-not-applied",
    does: "Trims are journalled and shipped, and change no image.",
    file: "image/fold.ts",
    find: "  for (const record of records) {\n",
    replace: `  for (const record of records) {\n    if (record.kind === "trim") continue;\n`,
    caughtBy: [{ file: "test/image/fold.test.ts" }],
    budgetSeconds: 30,
  },
  {
    id: "image/last-record-dropped",
    does: "The last record of an apply step is left out.",
    file: "image/group-image.ts",
    find: "    if (records.length > 0) yield { ...portion(), isLast: true };\n",
    replace: "    records.pop();\n    if (records.length > 0) yield { ...portion(), isLast: true };\n",
    caughtBy: [{ file: group, only: "image files hold what the records say" }],
    budgetSeconds: 60,
  },
  {
    id: "image/digest-compared-behind-the-whole-step",
    does: "A digest is compared when the step is over, and not before the records that follow it.",
    file: "image/group-image.ts",
    find: "          yield portion({ record, sequence });\n",
    replace: "          digests.push({ record, sequence });\n",
    also: [
      {
        find: "    let records: ImageRecord[] = [];\n    const portion",
        replace:
          '    const digests: Portion["digest"][] = [];\n    let records: ImageRecord[] = [];\n    const portion',
      },
      {
        find: "    if (records.length > 0) yield { ...portion(), isLast: true };\n",
        replace:
          "    if (records.length > 0) yield { ...portion(), isLast: true };\n    for (const digest of digests) yield portion(digest);\n",
      },
    ],
    caughtBy: [{ file: "test/image/scanned.test.ts", only: "digests are compared" }],
    budgetSeconds: 60,
  },
  {
    id: "image/digest-compared-after-a-step-cut-short",
    does: "After a crash digests are compared that the images may have passed.",
    file: "image/group-image.ts",
    find: "digest.sequence > this.#leftThrough",
    replace: "digest.sequence > 0",
    caughtBy: [{ file: "test/image/scanned.test.ts", only: "cut short" }],
    budgetSeconds: 60,
  },
  {
    id: "image/scan-content-in-the-overlay",
    does: "A scan's records reach the overlay as if a client had sent them.",
    file: "image/overlay.ts",
    find: "      if (!isOfClient(record)) continue;\n",
    replace: '      if (["scanMark", "scanDigest", "gap"].includes(record.kind)) continue;\n',
    caughtBy: [{ file: "test/image/scanned.test.ts", only: "ignore its content" }],
    budgetSeconds: 60,
  },
  {
    id: "image/marker-before-sync",
    does: "The marker moves although the images were not synced.",
    file: "image/group-image.ts",
    find: "      [...touched].map((volume) => this.#volume(volume).device.flush()),\n",
    replace: "      [...touched].map((volume) => Promise.resolve(this.#volume(volume))),\n",
    caughtBy: [{ file: group, only: "F08" }],
    budgetSeconds: 60,
  },
  {
    id: "image/sync-beside-apply-covers-it",
    does: "A sync claims what an apply beside it wrote after it had begun.",
    file: "image/group-image.ts",
    find: "    if (covered.sequence > this.#synced.sequence) this.#synced = covered;\n    return covered;",
    replace: "    this.#synced = this.#held;\n    return covered.sequence < 0 ? covered : this.#held;",
    caughtBy: [{ file: group, only: "a sync claims no frame" }],
    budgetSeconds: 60,
  },
  {
    id: "image/one-marker-slot",
    does: "The marker is always written over itself.",
    file: "image/marker.ts",
    find: "  return (generation % 2) * markerSlotBytes;",
    replace: "  return generation < 0 ? markerSlotBytes : 0;",
    caughtBy: [{ file: "test/image/marker.test.ts", only: "torn" }],
    budgetSeconds: 30,
  },
  {
    id: "image/marker-not-synced",
    does: "The marker is written and not synced.",
    file: "image/marker.ts",
    find: "      await this.#file.syncData();\n",
    replace: "",
    caughtBy: [{ file: "test/image/marker.test.ts" }],
    budgetSeconds: 30,
  },
];
