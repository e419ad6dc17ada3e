/** Planted bugs of a standby that was told of gaps: what may be opened, what stays pinned, what is handed over. */
import type { PlantedBug } from "../planted-bug.ts";

const completeness = "test/gateway/scan/completeness.test.ts";
const overflow = "test/gateway/scan/overflow.test.ts";
const crashStates = "test/gateway/scan/crash-states.test.ts";

export const overflowBugs: readonly PlantedBug[] = [
  {
    id: "overflow/gap-hidden",
    does: "A gap changes nothing of what can be opened.",
    file: "gateway/scan/completeness.ts",
    find: "    if (after !== before) yield change(frame.first, after);\n    return;\n",
    replace: "    if (after === null) yield change(frame.first, after);\n    return;\n",
    caughtBy: [{ file: completeness }],
    budgetSeconds: 60,
  },
  {
    id: "overflow/scan-outlives-a-gap",
    does: "The end of a resync that a gap came into makes the images complete.",
    file: "gateway/scan/completeness.ts",
    find: "    until: null,\n    scan: null,\n    seen: last,\n",
    replace: "    until: null,\n    scan: before?.scan ?? null,\n    seen: last,\n",
    caughtBy: [{ file: completeness }],
    budgetSeconds: 30,
  },
  {
    id: "overflow/since-moved-by-second-gap",
    does: "A second gap moves the position from which nothing can be opened.",
    file: "gateway/scan/completeness.ts",
    find: "    since: before?.since ?? first,\n",
    replace: "    since: first,\n",
    caughtBy: [{ file: overflow, only: "a gap, a second one" }],
    budgetSeconds: 60,
  },
  {
    id: "overflow/pin-moved-by-second-gap",
    does: "A second gap pins what the images hold then, in the midst of a resync.",
    file: "gateway/scan/declare-content.ts",
    find: "  if (isOpenable(before, frames[0]!.first - 1) && incomplete?.until === null) await pin();\n",
    replace: "  if (incomplete?.until === null) await pin();\n",
    caughtBy: [{ file: overflow, only: "a gap, a second one" }],
    budgetSeconds: 60,
  },
  {
    id: "overflow/pin-released-early",
    does: "The pin is given back when the resync begins.",
    file: "gateway/apply/applier.ts",
    find: "    return isOpenable(incomplete(), sequence) && incompleteAtEnd()?.until !== null;\n",
    replace:
      "    return (isOpenable(incomplete(), sequence) && incompleteAtEnd()?.until !== null) || incomplete()?.scan != null;\n",
    caughtBy: [{ file: overflow, only: "a gap, a second one" }],
    budgetSeconds: 60,
  },
  {
    id: "overflow/pinned-after-the-document",
    does: "The document says that the images are incomplete before the point is pinned.",
    file: "gateway/scan/declare-content.ts",
    find: "  if (isOpenable(before, frames[0]!.first - 1) && incomplete?.until === null) await pin();\n",
    replace: "",
    also: [
      {
        find: '  log.info("COMPLETENESS"',
        replace:
          '  if (isOpenable(before, frames[0]!.first - 1) && incomplete?.until === null) await pin();\n  log.info("COMPLETENESS"',
      },
    ],
    caughtBy: [{ file: crashStates, only: "before every step of document and marker, from empty" }],
    env: { SEED: "1" },
    budgetSeconds: 120,
  },
  {
    id: "overflow/part-of-a-step-handed-over",
    does: "What a step that was cut short has left beyond the seal is handed over.",
    file: "gateway/apply/applier.ts",
    find: "    return sealed !== undefined && image.applied.sequence >= sealed && image.applyingLast > sealed;\n",
    replace: "    return sealed !== undefined && image.applied.sequence > sealed;\n",
    caughtBy: [{ file: "test/gateway/scan/steps.test.ts", only: "cut short beyond the point" }],
    budgetSeconds: 60,
  },
  {
    id: "overflow/applied-beyond-the-seal",
    does: "Images that were taken back are applied to again before they are handed over.",
    file: "gateway/apply/applier.ts",
    find: "      const durable = Math.min(intake.durable.sequence, this.#limit ?? Number.POSITIVE_INFINITY);\n",
    replace: "      const durable = intake.durable.sequence;\n",
    also: [
      {
        find: "nextStep(synced, held, this.#options.incomplete(), this.#limit)",
        replace: "nextStep(synced, held, this.#options.incomplete())",
      },
    ],
    caughtBy: [{ file: crashStates, only: "a failover from any crash" }],
    env: { SEED: "4" },
    budgetSeconds: 120,
  },
  {
    id: "overflow/loss-without-what-was-received",
    does: "The loss of images that are taken back counts only what the last heartbeat said.",
    file: "gateway/failover/plan.ts",
    find: "Math.max(heard?.answered ?? 0, received?.sequence ?? 0)",
    replace: "heard?.answered ?? 0",
    caughtBy: [{ file: "test/gateway/failover-machine.test.ts", only: "taken back" }],
    budgetSeconds: 30,
  },
  {
    id: "overflow/gap-believed-beside-records",
    does: "A gap is taken beside other records of its frame.",
    file: "protocol/frame.ts",
    find: "    head.count !== 1 ||\n",
    replace: "",
    caughtBy: [{ file: "test/protocol/frame.test.ts", only: "a gap beside" }],
    budgetSeconds: 30,
  },
  {
    id: "overflow/gap-joined",
    does: "A gap is joined with the frames beside it.",
    file: "protocol/frame-join.ts",
    find: "    const isLone = gapOf(frame) !== undefined || ",
    replace: "    const isLone = ",
    caughtBy: [{ file: "test/protocol/frame-join.test.ts" }],
    budgetSeconds: 30,
  },
];
