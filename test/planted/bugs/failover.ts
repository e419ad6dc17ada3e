/** Planted bugs of a failover: the fence, the seal and the hand-over. */
import type { PlantedBug } from "../planted-bug.ts";

const order = "test/gateway/durable-order.test.ts";
const failover = "test/gateway/failover.test.ts";

export const failoverBugs: readonly PlantedBug[] = [
  {
    id: "failover/late-reopening-of-handed-over-images",
    does: "A gateway that had to wait for its intake opens the images after they were handed over, and writes into them.",
    file: "gateway/group.ts",
    find: "      if (document.failover?.seal != null && (await this.#readHandover()) !== undefined) return;\n",
    replace: "",
    caughtBy: [{ file: "test/gateway/late-reopening.test.ts", only: "late reopening" }],
    budgetSeconds: 30,
  },
  {
    id: "failover/document-believed-before-its-name-is-durable",
    does: "A document is read and believed although its writer was killed before its name was durable.",
    file: "runtime/durable-document.ts",
    find: "    await syncDirectory(disk, dirname(path));\n  } catch (cause) {",
    replace: "  } catch (cause) {",
    caughtBy: [{ file: "test/runtime/durable-document.test.ts", only: "what was read survives" }],
    budgetSeconds: 30,
  },
  {
    id: "failover/epoch-not-raised",
    does: "A failover takes over without raising the epoch.",
    file: "gateway/group.ts",
    find: "      token: { epoch: before.token.epoch + 1, owner: this.#options.site },\n",
    replace: "      token: { epoch: before.token.epoch, owner: this.#options.site },\n",
    caughtBy: [{ file: failover, only: "X1, X2, F63" }],
    budgetSeconds: 60,
  },
  {
    id: "failover/loss-frozen-too-early",
    does: "What the owner says while the token is being written is not counted as lost.",
    file: "gateway/group.ts",
    find: "this.#document = { ...document, failover: { ...failover, heard: this.#heard.record } };",
    replace: "this.#document = document;",
    caughtBy: [{ file: order, only: "while the token is written" }],
    budgetSeconds: 30,
  },
  {
    id: "failover/epoch-in-memory-only",
    does: "The raised epoch is kept in memory only until the seal is written.",
    file: "gateway/group.ts",
    find: "      await writeDocument(this.#disk, this.#paths.state, document);\n",
    replace: "",
    caughtBy: [{ file: order, only: "failover" }],
    budgetSeconds: 30,
  },
  {
    id: "failover/seal-without-fence",
    does: "The history is sealed while batches may still be taken.",
    file: "gateway/group.ts",
    find: "    await open.receiver.fence(this.#requireDocument().token);\n",
    replace: "",
    caughtBy: [{ file: failover, only: "a batch on its way while the token rises" }],
    budgetSeconds: 60,
  },
  {
    id: "failover/sealed-before-sync",
    does: "The seal is written before the intake is synced up to it.",
    file: "gateway/group.ts",
    find: "    const durable = await open.intake.sync();\n    if (durable.sequence !== open.intake.tail.sequence)\n",
    replace: "    if (open.intake.tail.sequence < 0)\n",
    caughtBy: [{ file: order, only: "the seal is written" }],
    budgetSeconds: 30,
  },
  {
    id: "failover/handed-over-before-applied",
    does: "The images are handed over without waiting for the seal to be applied.",
    file: "gateway/group.ts",
    find: "    await open.applier.appliedThrough(seal.sequence);\n",
    replace: "",
    also: [
      {
        find: "    if (applied?.sequence !== seal.sequence || chain === undefined || !bytesEqual(applied.chain, chain)) {",
        replace:
          "    if (applied === undefined || chain === undefined || chain.byteLength !== applied.chain.byteLength) {",
      },
    ],
    caughtBy: [{ file: order, only: "a seal counts as applied" }],
    budgetSeconds: 60,
  },
  {
    id: "failover/record-before-images-closed",
    does: "The hand-over record exists before the gateway has closed the images.",
    file: "gateway/group.ts",
    find: `    await this.#exclusive(() => this.#closeOpen("clean", why));\n    const record`,
    replace: "    const record",
    also: [
      {
        find: "    await writeDocument(this.#disk, this.#paths.handover, record);\n",
        replace: `    await writeDocument(this.#disk, this.#paths.handover, record);\n    await this.#exclusive(() => this.#closeOpen("clean", why));\n`,
      },
    ],
    caughtBy: [{ file: order, only: "hand-over" }],
    budgetSeconds: 30,
  },
  {
    id: "failover/fence-forgotten-at-restart",
    does: "After a restart in the middle of a failover the old owner's batches are taken again.",
    file: "gateway/open-standby.ts",
    find: `document.failover === null ? start : step(start, { kind: "fenced", token }).state`,
    replace: `document.failover === null ? start : step(start, { kind: "gone", id: 0 }).state`,
    caughtBy: [{ file: order, only: "restart" }],
    budgetSeconds: 30,
  },
  {
    id: "failover/loss-understated",
    does: "The stated loss is counted to what was received, not to what the owner had answered.",
    file: "gateway/failover/plan.ts",
    find: "(heard?.answered ?? 0) - end.sequence",
    replace: "Math.min(heard?.answered ?? 0, end.sequence) - end.sequence",
    caughtBy: [{ file: "test/gateway/failover-machine.test.ts", only: "the loss is" }],
    budgetSeconds: 30,
  },
  {
    id: "failover/overtaken-heartbeat-takes-back",
    does: "A heartbeat that was overtaken on the line takes the answered position back.",
    file: "gateway/heard.ts",
    find: "Math.max(heartbeat.answered, this.#record?.answered ?? 0)",
    replace: "heartbeat.answered",
    caughtBy: [{ file: "test/gateway/heard.test.ts" }],
    budgetSeconds: 30,
  },
];
