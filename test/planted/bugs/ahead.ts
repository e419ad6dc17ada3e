/** Planted bugs of before-images that are kept ahead of their step. */
import type { PlantedBug } from "../planted-bug.ts";

const ahead = "test/image/history/ahead.test.ts";
const whatever = "whatever follows";
const env = { SEED: "1" };

export const aheadBugs: readonly PlantedBug[] = [
  {
    id: "ahead/read-before-written",
    does: "What the next step changes is read wherever the step under way has got to.",
    file: "image/history/capture.ts",
    find: "  for (const [volume, end] of endsOf(pieces, images)) await images.ready?.(volume, end);\n",
    replace: "",
    caughtBy: [{ file: ahead, only: whatever }],
    env,
    budgetSeconds: 60,
  },
  {
    id: "ahead/holes-asked-for-before-written",
    does: "Where data lies is asked for before the step under way has put it there.",
    file: "image/history/pieces.ts",
    find: "  await images.ready?.(volume, start + length);\n",
    replace: "",
    caughtBy: [{ file: ahead, only: "where data lies" }],
    budgetSeconds: 30,
  },
  {
    id: "ahead/written-when-it-begins",
    does: "A volume counts as written when the last changes of a step begin.",
    file: "image/written-so-far.ts",
    find: "return this.#isLast && end <= (this.#below.get(volume) ?? Number.POSITIVE_INFINITY);",
    replace: "return this.#isLast;",
    caughtBy: [{ file: ahead, only: whatever }],
    env,
    budgetSeconds: 60,
  },
  {
    id: "ahead/earlier-portions-forgotten",
    does: "Volumes that the first portion of a step changes no more are read though a later one changes them.",
    file: "image/written-so-far.ts",
    find: "return this.#isLast && end",
    replace: "return end",
    caughtBy: [{ file: ahead, only: "who looks waits" }],
    budgetSeconds: 30,
  },
  {
    id: "ahead/taken-for-another-step",
    does: "A set that was made ahead is taken for whatever step comes.",
    file: "image/history/history.ts",
    find: "      ahead.end.sequence === end.sequence &&\n      bytesEqual(ahead.end.chain, end.chain);",
    replace: "      ahead.end.sequence <= end.sequence;",
    caughtBy: [{ file: ahead, only: "another step comes|whatever follows" }],
    env,
    budgetSeconds: 60,
  },
  {
    id: "ahead/left-begun",
    does: "A set that no step takes is left where it is.",
    file: "image/history/history.ts",
    find: "    this.#ahead = undefined;\n    await this.#segments.dropSet();\n",
    replace: "    this.#ahead = undefined;\n",
    caughtBy: [{ file: ahead, only: "another step comes|whatever follows" }],
    env,
    budgetSeconds: 60,
  },
  {
    id: "ahead/ended-at-once",
    does: "A set gets its end before its step has begun: the images may be taken back, and it counts.",
    file: "image/history/capture.ts",
    find: "      await mayEnd;\n",
    replace: "",
    caughtBy: [{ file: ahead, only: "power lost|whatever follows" }],
    env,
    budgetSeconds: 60,
  },
  {
    id: "ahead/synced-before-its-end-alone",
    does: "A set that was made ahead is not synced again when it has its end.",
    file: "image/history/segments.ts",
    find: '    await this.#guard("sync", () => this.#file!.syncData());\n    this.#inSet = false;',
    replace:
      '    if (!this.#isSynced) await this.#guard("sync", () => this.#file!.syncData());\n    this.#isSynced = false;\n    this.#inSet = false;',
    also: [
      {
        find: "    // A failure here is final, as at the end of the set.\n",
        replace: "    this.#isSynced = true;\n",
      },
      { find: "  #inSet = false;\n", replace: "  #inSet = false;\n  #isSynced = false;\n" },
    ],
    caughtBy: [{ file: ahead, only: "power lost" }],
    env,
    budgetSeconds: 60,
  },
  {
    id: "ahead/read-through-under-way",
    does: "A set under way is read through with the others.",
    file: "image/history/history.ts",
    find: "[...this.#segments.ended]",
    replace: "[...this.#segments.list]",
    caughtBy: [{ file: ahead, only: "neither read through" }],
    budgetSeconds: 30,
  },
  {
    id: "ahead/taken-back-under-way",
    does: "Images are taken back with a set begun.",
    file: "image/history/history.ts",
    find: "      await this.#dropAhead();\n      const point = await this.point(sequence);",
    replace: "      const point = await this.point(sequence);",
    caughtBy: [{ file: ahead, only: "images are taken back" }],
    budgetSeconds: 30,
  },
];
