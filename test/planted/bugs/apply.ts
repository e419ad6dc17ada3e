/** Planted bugs of applying at the standby: order of sync, marker and trim. */
import type { PlantedBug } from "../planted-bug.ts";

const order = "test/gateway/durable-order.test.ts";
const trouble = "test/gateway/trouble.test.ts";

export const applyBugs: readonly PlantedBug[] = [
  {
    id: "apply/intention-left-out",
    does: "Images are changed without the durable intention.",
    file: "gateway/apply/applier.ts",
    find: "      await image.begin(last);\n",
    replace: "",
    caughtBy: [{ file: order, only: "apply step" }],
    budgetSeconds: 30,
  },
  {
    id: "apply/position-before-sync",
    does: "The applied position is told before the images are synced.",
    file: "gateway/apply/applier.ts",
    find: "      const position = await image.sync();\n",
    replace: "      this.#advance(image.held);\n      const position = await image.sync();\n",
    caughtBy: [{ file: order, only: "position" }],
    budgetSeconds: 30,
  },
  {
    id: "apply/trimmed-before-marker",
    does: "The intake is trimmed before the marker says that the images hold what goes.",
    file: "gateway/apply/applier.ts",
    find: "      await image.commit(position);\n",
    replace: "      await fromIntake(intake.trim(position.sequence));\n      await image.commit(position);\n",
    caughtBy: [{ file: order, only: "apply step" }],
    budgetSeconds: 30,
  },
  {
    id: "apply/unsynced-frames-applied",
    does: "Frames are applied that the intake has not synced.",
    file: "gateway/apply/applier.ts",
    find: "found.filter((frame) => frame.last <= intake.durable.sequence)",
    replace: "found.filter((frame) => frame.last > 0)",
    caughtBy: [{ file: order, only: "not synced" }],
    budgetSeconds: 30,
  },
  {
    id: "apply/failed-images-used-on",
    does: "Images whose sync failed are used on instead of being opened again.",
    file: "image/group-image.ts",
    find: "  #admit(): void {\n    if (this.#failed !== undefined) throw this.#failed;",
    replace: "  #admit(): void {\n    this.#failed = undefined;",
    caughtBy: [{ file: "test/image/group-image.test.ts", only: "a failed sync is told once" }],
    budgetSeconds: 30,
  },
  {
    id: "apply/torn-images-called-consistent",
    does: "Images that hold part of records which the intake lost are called consistent.",
    file: "gateway/apply/open-image.ts",
    find: "  if (applyingLast > intake.tail.sequence)\n",
    replace: "  if (applyingLast < 0)\n",
    caughtBy: [{ file: trouble, only: "what images and intake prove together" }],
    budgetSeconds: 30,
  },
  {
    id: "apply/status-cached",
    does: "The standby's status is computed once and told for ever.",
    file: "gateway/group.ts",
    find: "  status(): StandbyStatus {\n",
    replace:
      "  #told: StandbyStatus | undefined;\n  status(): StandbyStatus {\n    this.#told ??= this.#fresh();\n    return this.#told;\n  }\n\n  #fresh(): StandbyStatus {\n",
    caughtBy: [{ file: "test/gateway/replication.test.ts", only: "an unknown group is made" }],
    budgetSeconds: 60,
  },
];
