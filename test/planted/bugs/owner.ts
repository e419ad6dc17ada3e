/** Planted bugs of an owned group's life: what it starts on, when it stops answering, what it says of itself. */
import type { PlantedBug } from "../planted-bug.ts";

const life = "test/site-agent/group/owned-group.test.ts";
const line = "test/site-agent/group/line.test.ts";
const decision = "test/site-agent/group/start-decision.test.ts";

export const ownerBugs: readonly PlantedBug[] = [
  {
    id: "owner/image-identity-not-checked",
    does: "Whatever file lies under the image's path is taken for the image.",
    file: "site-agent/group/files.ts",
    find: "    for (const volume of state.volumes)\n      await refuseOtherImage(settings.images, volume, configuredBytes(volume.name));\n",
    replace: "",
    caughtBy: [{ file: life, only: "F76" }],
    budgetSeconds: 30,
  },
  {
    id: "owner/no-replay",
    does: "After a restart the image is not brought up to the journal.",
    file: "site-agent/group/files.ts",
    find: "    await replay(log, image, settings.log);\n",
    replace: "",
    caughtBy: [{ file: "test/site-agent/write-path/engine.test.ts" }],
    budgetSeconds: 60,
  },
  {
    id: "owner/superseded-goes-on-answering",
    does: "An owner that is told of a newer token goes on answering writes.",
    file: "site-agent/group/owned-group.ts",
    find: "    this.#fencedBy ??= by;\n    this.#stepAlone(() => this.#fence(by));\n",
    replace: "    void by;\n",
    caughtBy: [{ file: line, only: "superseded" }],
    budgetSeconds: 30,
  },
  {
    id: "owner/late-answer-dropped",
    does: "An answer to the start's question that comes late is dropped, though it names a newer token.",
    file: "site-agent/group/owned-group.ts",
    find: `    if (decision.kind === "fence") this.#superseded(decision.by);\n`,
    replace: "",
    caughtBy: [{ file: line, only: "however late" }],
    budgetSeconds: 30,
  },
  {
    id: "owner/decides-while-it-waits",
    does: "An order to take over makes a group that waits for its disk decide anew, and stop.",
    file: "site-agent/group/owned-group.ts",
    find: `      if (kind !== "serving" && kind !== "reopening") await`,
    replace: `      if (kind !== "serving") await`,
    caughtBy: [{ file: "test/site-agent/group/owned-group.test.ts", only: "waits for its disk" }],
    budgetSeconds: 30,
  },
  {
    id: "owner/fenced-answers-what-was-under-way",
    does: "A write that was under way when the newer token was seen is answered with success.",
    file: "site-agent/group/owned-group.ts",
    find: "      const settle = () => (this.#fencedBy === null ? resolve() : reject(shutdownError()));\n      this.#entrance.enter(",
    replace: "      const settle = () => resolve();\n      this.#entrance.enter(",
    caughtBy: [{ file: line, only: "under way" }],
    budgetSeconds: 30,
  },
  {
    id: "owner/fence-not-durable",
    does: "A fenced owner forgets at a restart that it was fenced.",
    file: "site-agent/group/owned-group.ts",
    find: `      role: "fenced",\n      fenced: {`,
    replace: "      fenced: {",
    caughtBy: [{ file: line, only: "superseded" }],
    budgetSeconds: 30,
  },
  {
    id: "owner/trimmed-at-send",
    does: "Frames leave the journal when they were sent, not when they are durable at the standby.",
    file: "site-agent/group/owned-group.ts",
    find: "this.#state?.standby === null ? Number.POSITIVE_INFINITY : this.#acknowledged,",
    replace:
      "this.#state?.standby === null ? Number.POSITIVE_INFINITY : (this.#shipper?.status().shipped ?? 0),",
    caughtBy: [{ file: line, only: "acknowledged" }],
    budgetSeconds: 30,
  },
  {
    id: "owner/serves-a-stale-history",
    does: "An owner that comes back after a failover serves although the other site holds a newer token.",
    file: "site-agent/group/start-decision.ts",
    find: `      return { kind: "fence", by: peer.token };`,
    replace: `      return { kind: "serve" };`,
    caughtBy: [{ file: decision }],
    budgetSeconds: 30,
  },
  {
    id: "owner/empty-disks-over-a-known-group",
    does: "An agent that lost its state makes empty disks although the other site knows the group.",
    file: "site-agent/group/start-decision.ts",
    find: `facts.peer.known ? { kind: "stop", code: "STATE_LOST" } : { kind: "create" }`,
    replace: `facts.peer.known && facts.createOrdered ? { kind: "stop", code: "STATE_LOST" } : { kind: "create" }`,
    caughtBy: [{ file: decision }],
    budgetSeconds: 30,
  },
  {
    id: "owner/adopted-twice",
    does: "A hand-over that was adopted long ago is adopted again, over what was written since.",
    file: "site-agent/group/start-decision.ts",
    find: "    if (handover.token.epoch > held ||",
    replace: "    if (handover.token.epoch >= held ||",
    caughtBy: [{ file: decision }],
    budgetSeconds: 30,
  },
  {
    id: "owner/status-cached",
    does: "The status is computed once and told for ever.",
    file: "site-agent/group/owned-group.ts",
    find: "  status(): OwnerStatus {\n",
    replace:
      "  #told: OwnerStatus | undefined;\n  status(): OwnerStatus {\n    this.#told ??= this.#fresh();\n    return this.#told;\n  }\n\n  #fresh(): OwnerStatus {\n",
    caughtBy: [{ file: life, only: "a created group serves" }],
    budgetSeconds: 30,
  },
];
