/** Planted bugs of shipping: what leaves the site, and what is believed of the other one. */
import type { PlantedBug } from "../planted-bug.ts";

const machine = "test/site-agent/ship/machine.test.ts";
const packing = "test/site-agent/ship/packing.test.ts";

export const shippingBugs: readonly PlantedBug[] = [
  {
    id: "shipping/superseded-at-a-question",
    does: "An owner passes over a newer token in the answer to its question about the volume table.",
    file: "site-agent/ship/shipper.ts",
    find: '    if (answer.kind === "superseded") listener.superseded(answer.token);\n',
    replace:
      '    if (answer.kind === "superseded" && wanted.length < 0) listener.superseded(answer.token);\n',
    caughtBy: [{ file: "test/site-agent/ship/shipper.test.ts", only: "about the volume table" }],
    budgetSeconds: 60,
  },
  {
    id: "shipping/unsynced-frames-sent",
    does: "Frames of the journal's memory tail are sent although they are not synced.",
    file: "site-agent/ship/packing.ts",
    find: "    if (next > through) break;\n",
    replace: "",
    also: [{ find: "let last = Math.min(frame.last, through);", replace: "let last = frame.last;" }],
    caughtBy: [{ file: packing }],
    budgetSeconds: 60,
  },
  {
    id: "shipping/last-record-dropped",
    does: "The last record of a batch is left out.",
    file: "site-agent/ship/packing.ts",
    find: "    packed.push(sliceFrame(frame, next, last));\n",
    replace: "    packed.push(sliceFrame(frame, next, Math.max(next, last - 1)));\n",
    caughtBy: [{ file: packing }],
    budgetSeconds: 60,
  },
  {
    id: "shipping/acknowledged-at-send",
    does: "What was sent is reported as acknowledged.",
    file: "site-agent/ship/machine.ts",
    find: "    collectingSinceMs: undefined,\n    progressMs: turn.nowMs,\n  });\n  turn.pump();",
    replace:
      "    collectingSinceMs: undefined,\n    progressMs: turn.nowMs,\n    acknowledged: event.last,\n  });\n  turn.pump();",
    caughtBy: [{ file: machine }],
    budgetSeconds: 90,
  },
  {
    id: "shipping/standby-believed-without-chain",
    does: "A standby's position is believed although its chain is not ours.",
    file: "site-agent/ship/machine.ts",
    find: "  if (event.chain !== theirs.chain) {",
    replace: "  if (event.chain === undefined && theirs.chain === undefined) {",
    caughtBy: [{ file: machine, only: "SH3" }],
    budgetSeconds: 30,
  },
  {
    id: "shipping/standby-ahead-believed",
    does: "An acknowledgement beyond our own journal is believed.",
    file: "site-agent/ship/turn.ts",
    find: "    if (durable > this.state.durable) {\n",
    replace: "    if (durable > Number.MAX_SAFE_INTEGER) {\n",
    caughtBy: [{ file: machine, only: "SH5" }],
    budgetSeconds: 30,
  },
  {
    id: "shipping/lost-standby-made-anew",
    does: "A standby that forgot what it had acknowledged is made anew without the trimmed frames.",
    file: "site-agent/ship/machine.ts",
    find: "      if (turn.state.acknowledged > 0 || event.floor > 0) {",
    replace: "      if (turn.state.acknowledged > 0 && event.floor < 0) {",
    caughtBy: [{ file: machine, only: "SH6" }],
    budgetSeconds: 30,
  },
  {
    id: "shipping/loss-told-from-acknowledged",
    does: "Heartbeats tell what is acknowledged instead of what was answered, so the stated loss is always nothing.",
    file: "site-agent/ship/shipper.ts",
    find: "      answered: answered.sequence,\n",
    replace: "      answered: this.#state.acknowledged,\n",
    caughtBy: [{ file: "test/site-agent/ship/shipper.test.ts", only: "heartbeat" }],
    budgetSeconds: 60,
  },
  {
    id: "shipping/newer-token-missed-while-closing",
    does: "An answer that names a newer token is ignored when it comes to a shipper that was closed meanwhile.",
    file: "site-agent/ship/machine.ts",
    find: "  closed: {\n    ...never,\n    helloAnswered: answeredAside,\n    batchAnswered: answeredAside,\n    heartbeatAnswered: answeredAside,\n  },",
    replace: "  closed: never,",
    caughtBy: [{ file: machine, only: "SH12" }],
    budgetSeconds: 30,
  },
];
