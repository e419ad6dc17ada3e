/** Planted bugs of an overflow at the owner: what is noted of what is dropped, who waits for it, and when it is forgotten. */
import type { PlantedBug } from "../planted-bug.ts";

const crash = "test/site-agent/overflow/crash.test.ts";
const owner = "test/site-agent/group/overflow.test.ts";

export const dropBugs: readonly PlantedBug[] = [
  {
    id: "overflow/bits-after-the-frames",
    does: "What a dropped frame touched is noted when the frame is gone.",
    file: "journal/trimmer.ts",
    find: '        ...order.notes().map((note): RowChange => ({ table: "note", ...note })),\n',
    replace: "",
    also: [
      {
        find: "      await this.#deleteLeft();\n      await this.#removeWaymarks(Math",
        replace:
          '      await this.#deleteLeft();\n      const rows = order.notes().map((note): RowChange => ({ table: "note", ...note }));\n      await this.#parts.writer.write("note put", () => this.#parts.store.changeRows(rows));\n      await this.#removeWaymarks(Math',
      },
    ],
    caughtBy: [{ file: crash }, { file: "test/journal/drop.test.ts", only: "are one change" }],
    env: { SEED: "1" },
    budgetSeconds: 150,
  },
  {
    id: "overflow/gap-untold-after-a-start",
    does: "After a start the standby is believed not to have been told of a gap.",
    file: "site-agent/overflow/overflow.ts",
    find: "note === null ? null : { ...note, declared: true }",
    replace: "note === null ? null : { ...note, declared: false }",
    caughtBy: [{ file: crash, only: "after a start" }],
    budgetSeconds: 150,
  },
  {
    id: "overflow/lost-page-missed",
    does: "Bits that LevelDB lost with the row they stood in are missed by nobody.",
    file: "site-agent/overflow/overflow.ts",
    find: "  if (digestOfPages(map.pages) !== (note?.pages ?? digestOfPages([])))\n",
    replace: "  if (map.pages.length > 0 && note === null)\n",
    caughtBy: [{ file: "test/site-agent/overflow/dirty-map.test.ts", only: "a page that is not the one" }],
    budgetSeconds: 60,
  },
  {
    id: "overflow/writes-held",
    does: "A full journal holds writes although frames may be dropped.",
    file: "site-agent/write-path/engine.ts",
    find: '    if (code === "JOURNAL_FULL" && dropBehind !== null) {\n',
    replace: '    if (code === "JOURNAL_FULL" && dropBehind === null) {\n',
    caughtBy: [{ file: owner, only: "nothing is refused" }],
    budgetSeconds: 150,
  },
  {
    id: "overflow/resync-skips-what-came-later",
    does: "A resync under way goes on when more is dropped, over the chunks that were dirty when it began.",
    file: "site-agent/scan/group-scans.ts",
    find: "    return note !== null && note.through !== dropped;\n",
    replace: "    return note !== null && dropped === null;\n",
    also: [
      {
        find: "    this.#scanner = null;\n    const stopped = scanner.stop();\n",
        replace: "    if (this.#documents.scan !== null) return;\n    const stopped = scanner.stop();\n",
      },
      {
        find: "if (dropped === null || !(await ground.overflow.clear(dropped))) {",
        replace: "if (dropped === null || !(await ground.overflow.clear(ground.overflow.note.through))) {",
      },
    ],
    caughtBy: [{ file: owner, only: "dropped while a resync" }],
    budgetSeconds: 150,
  },
  {
    id: "overflow/bits-cleared-with-the-end",
    does: "What is dirty is forgotten when the end of a resync is put, not when the standby has applied it.",
    file: "site-agent/scan/plan.ts",
    find: "    if (end === null || applied < end) return;\n",
    replace: "    if (end === null) return;\n",
    caughtBy: [{ file: "test/site-agent/scan/plan.test.ts" }],
    env: { SEED: "1" },
    budgetSeconds: 150,
  },
];
