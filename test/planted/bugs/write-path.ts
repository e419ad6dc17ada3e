/** Planted bugs between a client's request and its answer. */
import type { PlantedBug } from "../planted-bug.ts";

const steps = "test/site-agent/write-path/steps.test.ts";
const engine = "test/site-agent/write-path/engine.test.ts";

export const writePathBugs: readonly PlantedBug[] = [
  {
    id: "write-path/answer-before-put",
    does: "A write is answered before its frame is in the journal.",
    file: "site-agent/write-path/committer.ts",
    find: "      const frame = this.#pack(items);\n",
    replace:
      "      const frame = this.#pack(items);\n      for (const { request } of items) if (request !== null && !request.durable) request.resolve();\n",
    caughtBy: [{ file: steps }],
    budgetSeconds: 30,
  },
  {
    id: "write-path/gate-before-sync",
    does: "FLUSH and FUA are answered when the sync begins, not when it is done.",
    file: "site-agent/write-path/syncer.ts",
    find: "        const position = await log.sync();\n",
    replace: "        gate.release(log.tail.sequence);\n        const position = await log.sync();\n",
    caughtBy: [{ file: steps }],
    budgetSeconds: 30,
  },
  {
    id: "write-path/gate-takes-the-tail-for-durable",
    does: "After a sync everything appended is called durable, also what was appended while it ran.",
    file: "site-agent/write-path/syncer.ts",
    find: "        gate.release(position.sequence);\n",
    replace: "        gate.release(log.tail.sequence);\n",
    caughtBy: [{ file: steps }],
    budgetSeconds: 30,
  },
  {
    id: "write-path/flush-when-queue-empty",
    does: "FLUSH is answered at once when no request waits, although answered writes are not synced.",
    file: "site-agent/write-path/engine.ts",
    find: "    if (target > this.log.durable.sequence) this.#world.gate",
    replace: "    if (target > this.log.durable.sequence && this.#world.pending.count > 0) this.#world.gate",
    caughtBy: [{ file: steps }],
    budgetSeconds: 30,
  },
  {
    id: "write-path/fua-forgotten-on-long-writes",
    does: "A write that is split into several records loses its FUA.",
    file: "site-agent/group/volume-device.ts",
    find: "    return this.#sink.submit(records, options.fua);",
    replace: "    return this.#sink.submit(records, false);",
    caughtBy: [{ file: "test/site-agent/group/volume-device.test.ts" }],
    budgetSeconds: 30,
  },
  {
    id: "write-path/trim-not-in-the-order",
    does: "A trim is answered without being put into the write order.",
    file: "site-agent/group/volume-device.ts",
    find: `    return this.#sink.submit([{ kind: "trim", volume: this.#volume, offset, length }], options.fua);`,
    replace: "    return offset + length < 0 ? this.#sink.flush() : Promise.resolve(void options);",
    caughtBy: [{ file: "test/site-agent/group/volume-device.test.ts" }],
    budgetSeconds: 30,
  },
  {
    id: "write-path/zeroes-length-of-31-bits",
    does: "The length of a range of zeroes loses its highest bit.",
    file: "site-agent/group/volume-device.ts",
    find: "    return this.#sink.submit([{ kind, volume: this.#volume, offset, length }], options.fua);",
    replace:
      "    return this.#sink.submit([{ kind, volume: this.#volume, offset, length: length & 0x7fffffff }], options.fua);",
    caughtBy: [{ file: "test/site-agent/group/volume-device.test.ts" }],
    budgetSeconds: 30,
  },
  {
    id: "write-path/image-before-sync",
    does: "Frames go to the local image before the journal is synced.",
    file: "site-agent/write-path/applier.ts",
    find: "    this.#bytes += frame.body.byteLength;\n  }",
    replace: "    this.#bytes += frame.body.byteLength;\n    this.durableAdvanced(frame.last);\n  }",
    caughtBy: [{ file: steps }],
    budgetSeconds: 30,
  },
  {
    id: "write-path/overlay-evicts-early",
    does: "The overlay forgets a frame when it is durable, before the image holds it.",
    file: "site-agent/write-path/engine.ts",
    find: "        this.#applier.durableAdvanced(position.sequence);\n",
    replace:
      "        this.#applier.durableAdvanced(position.sequence);\n        this.#overlay.evictThrough(position.sequence);\n",
    caughtBy: [{ file: steps }, { file: engine }],
    budgetSeconds: 60,
  },
  {
    id: "write-path/trim-before-checkpoint",
    does: "The journal is trimmed to what the image holds, although the checkpoint has not moved there.",
    file: "site-agent/write-path/applier.ts",
    find: "        await image.commit(await image.sync());\n",
    replace: "        await image.sync();\n",
    also: [{ find: "Math.min(image.applied.sequence, ", replace: "Math.min(image.held.sequence, " }],
    caughtBy: [{ file: steps }, { file: engine }],
    budgetSeconds: 60,
  },
  {
    id: "write-path/order-lost-at-put-back",
    does: "Records that got no place in the journal come back behind those that arrived later.",
    file: "site-agent/write-path/pending-writes.ts",
    find: "[...items, ...this.#items.slice(this.#head)]",
    replace: "[...this.#items.slice(this.#head), ...items]",
    caughtBy: [{ file: "test/site-agent/write-path/queues.test.ts" }],
    budgetSeconds: 30,
  },
  {
    id: "write-path/failed-put-taken-for-done",
    does: "After a failed put the writes of its frame are answered without looking whether the journal has them.",
    file: "site-agent/write-path/engine.ts",
    find: "      if (tail.sequence === frame.last && bytesEqual(tail.chain, frame.chainAfter)) {",
    replace: "      if (tail.sequence >= 0 || bytesEqual(tail.chain, frame.chainAfter)) {",
    caughtBy: [{ file: engine, only: "a put that fails before" }],
    budgetSeconds: 30,
  },
  {
    id: "write-path/failed-put-never-answered",
    does: "The writes of a failed put are left without an answer when no journal follows.",
    file: "site-agent/write-path/engine.ts",
    find: "    for (const item of items) item.request?.reject(error);\n",
    replace: "    void error;\n",
    caughtBy: [
      {
        file: "test/site-agent/group/owned-group.test.ts",
        only: "writes whose put failed are refused",
      },
    ],
    budgetSeconds: 40,
  },
];
