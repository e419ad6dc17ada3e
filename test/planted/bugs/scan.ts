/** Planted bugs of a standby under a scan: what is compared with what, what is told, and what may be opened. */
import type { PlantedBug } from "../planted-bug.ts";

const steps = "test/gateway/scan/steps.test.ts";

export const scanBugs: readonly PlantedBug[] = [
  {
    id: "scan/ordered-taken-for-repaired",
    does: "A repair is remembered as one when it is ordered, whatever becomes of it.",
    file: "site-agent/scan/group-scans.ts",
    find: "repairs: afterOrder(this.#documents.repairs, by) }",
    replace: "repairs: afterRepair(afterOrder(this.#documents.repairs, by), listed) }",
    caughtBy: [{ file: "test/site-agent/scan/group-scans.test.ts", only: "did not get to" }],
    budgetSeconds: 90,
  },
  {
    id: "scan/gone-on-with-behind-its-end",
    does: "A scan whose end is not on record yet is gone on with, and ends twice.",
    file: "site-agent/scan/group-scans.ts",
    find: "if (this.#ending !== null || this.#isOvertaken(document)) return;",
    replace: "if (this.#isOvertaken(document)) return;",
    caughtBy: [{ file: "test/site-agent/scan/group-scans.test.ts", only: "whose end a greeting tells" }],
    budgetSeconds: 90,
  },
  {
    id: "scan/superseded-at-a-pin",
    does: "An owner passes over a newer token in the answer to its order to pin a point before a repair.",
    file: "site-agent/scan/ask-standby.ts",
    find: "heeded(parseStandbyPinAnswer(reply.body), superseded)",
    replace: "parseStandbyPinAnswer(reply.body)",
    caughtBy: [{ file: "test/site-agent/scan/group-scans.test.ts", only: "to pin that names a newer token" }],
    budgetSeconds: 120,
  },
  {
    id: "scan/superseded-behind-a-scan-that-ended",
    does: "A newer token in the answer about findings is heeded by the scan alone, which may have ended meanwhile.",
    file: "site-agent/scan/ask-standby.ts",
    find: "heeded(parseScanAnswer(reply.body), superseded)",
    replace: "parseScanAnswer(reply.body)",
    caughtBy: [{ file: "test/site-agent/scan/ask-standby.test.ts", only: "findings" }],
    budgetSeconds: 30,
  },
  {
    id: "scan/superseded-behind-a-check-that-ended",
    does: "A newer token in the answer about before-images is heeded only while somebody waits for it.",
    file: "site-agent/scan/ask-standby.ts",
    find: "heeded(parseHistoryCheckAnswer(reply.body), superseded)",
    replace: "parseHistoryCheckAnswer(reply.body)",
    caughtBy: [{ file: "test/site-agent/scan/ask-standby.test.ts", only: "before-images" }],
    budgetSeconds: 30,
  },
  {
    id: "scan/compared-with-the-whole-step",
    does: "Digests are compared with what the images hold after the whole step.",
    file: "gateway/apply/applier.ts",
    find: "      await image.apply(frames, compare, () => this.#following(end, image, pin, reader));\n",
    replace:
      '      await image.apply(frames);\n      for (const { records, first } of frames)\n        for (const [index, record] of records.entries())\n          if (record.kind === "scanDigest") await compare(record, first + index);\n',
    caughtBy: [{ file: steps, only: "in the same step" }],
    budgetSeconds: 30,
  },
  {
    id: "scan/unknown-taken-for-equal",
    does: "After a step that was cut short its digests count as compared.",
    file: "gateway/apply/applier.ts",
    find: "new Findings(Math.max(image.applied.sequence, image.digestsToldBehind))",
    replace: "new Findings(image.applied.sequence)",
    caughtBy: [{ file: steps, only: "cut short are unknown" }],
    budgetSeconds: 30,
  },
  {
    id: "scan/passed-over-taken-for-equal",
    does: "A digest that was passed over counts as compared when the next one is.",
    file: "gateway/scan/compare.ts",
    find: "      findings.missed(sequence);\n      return;\n",
    replace: "      return;\n",
    caughtBy: [{ file: "test/gateway/scan/compare.test.ts", only: "a digest is passed over" }],
    budgetSeconds: 30,
  },
  {
    id: "scan/resync-for-first-sync",
    does: "A resync that begins where a first sync has not ended takes its place.",
    file: "gateway/scan/completeness.ts",
    find: `    purpose: before?.purpose === "first-sync" ? "first-sync" : purpose,\n    // What`,
    replace: "    purpose,\n    // What",
    caughtBy: [{ file: "test/gateway/scan/completeness.test.ts" }],
    budgetSeconds: 60,
  },
  {
    id: "scan/completeness-after-the-step",
    does: "What the marks of a step say is written after the step.",
    file: "gateway/apply/applier.ts",
    find: "      await this.#options.beforeStep(frames, pinPoint);\n",
    replace: "",
    also: [
      {
        find: "      ends.applied();\n",
        replace:
          "      ends.applied();\n      await ends.settled();\n      await this.#options.beforeStep(frames, pinPoint);\n",
      },
    ],
    caughtBy: [{ file: steps, only: "before its intention" }],
    budgetSeconds: 60,
  },
  {
    id: "scan/failover-in-its-midst",
    does: "A failover takes over images in the middle of a scan that copies content.",
    file: "gateway/seal.ts",
    find: "  if (isOpenable(incompleteAtEnd, end.sequence)) return { seal: end, received: null };\n",
    replace: "  if (isOpenable(null, end.sequence)) return { seal: end, received: null };\n",
    caughtBy: [{ file: steps, only: "not sealed in its middle" }],
    budgetSeconds: 60,
  },
];
