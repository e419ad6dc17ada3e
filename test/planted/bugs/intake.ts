/** Planted bugs of the receiving end: what is taken, and when it is acknowledged. */
import type { PlantedBug } from "../planted-bug.ts";

const machine = "test/gateway/intake-machine.test.ts";
const order = "test/gateway/durable-order.test.ts";

export const intakeBugs: readonly PlantedBug[] = [
  {
    id: "intake/acknowledged-before-sync",
    does: "A batch is acknowledged when it is appended, before the intake is synced.",
    file: "gateway/receive/receiver.ts",
    find: `    this.#dispatch({ kind: "appended", id, tail: intake.tail });\n`,
    replace: `    this.#dispatch({ kind: "appended", id, tail: intake.tail });\n    this.#dispatch({ kind: "synced", durable: intake.tail });\n`,
    caughtBy: [{ file: order, only: "acknowledged" }],
    budgetSeconds: 30,
  },
  {
    id: "intake/gap-taken",
    does: "A batch that does not follow the tail is taken.",
    file: "gateway/receive/machine.ts",
    find: "  if (offer.first > tail.sequence + 1) return wait(state, offer);\n",
    replace: "  if (offer.first > tail.sequence + 1 && state.turn === null) return take(state, offer, []);\n",
    caughtBy: [{ file: machine }],
    budgetSeconds: 60,
  },
  {
    id: "intake/repeat-appended-again",
    does: "A batch that was sent again is appended a second time.",
    file: "gateway/receive/machine.ts",
    find: "  if (offer.last <= tail.sequence) return check(state, offer);\n",
    replace: "  if (offer.last <= tail.sequence && state.turn === null) return take(state, offer, []);\n",
    caughtBy: [{ file: machine }],
    budgetSeconds: 60,
  },
  {
    id: "intake/other-history-appended",
    does: "A batch that follows by number is taken although its chain is another one.",
    file: "gateway/receive/machine.ts",
    find: "  if (!bytesEqual(offer.chainBefore, tail.chain))\n",
    replace: "  if (offer.chainBefore.byteLength !== tail.chain.byteLength)\n",
    caughtBy: [{ file: machine }],
    budgetSeconds: 60,
  },
  {
    id: "intake/token-not-checked",
    does: "A batch is taken whatever its token.",
    file: "gateway/receive/machine.ts",
    find: "  return judgeToken(offer.token, state.token);\n",
    replace: "  return offer.token.epoch < 0 ? judgeToken(offer.token, state.token) : undefined;\n",
    caughtBy: [{ file: machine }],
    budgetSeconds: 60,
  },
  {
    id: "intake/token-looked-at-once",
    does: "A batch that was taken before the token rose is acknowledged after it rose.",
    file: "gateway/receive/machine.ts",
    find: `condition: "fenced" as const, token, waiting: [], syncing: [], checking: [] };\n`,
    replace: `condition: "fenced" as const, token, waiting: [], checking: [] };\n`,
    also: [
      {
        find: "  const told = [...state.waiting, ...state.syncing, ...state.checking].map(",
        replace: "  const told = [...state.waiting, ...state.checking].map(",
      },
      {
        find: "    synced: (state, { durable }) => stay({ ...state, durable: newest(state.durable, durable) }),\n",
        replace: "    synced: (state, { durable }) => synced(state, durable),\n",
      },
    ],
    caughtBy: [{ file: machine, only: "the token is looked at once more" }],
    budgetSeconds: 30,
  },
  {
    id: "intake/damage-taken",
    does: "A batch is unpacked without its payload's checksum.",
    file: "protocol/batch.ts",
    find: "  if (crc32(payload) !== header.payloadCrc)\n",
    replace: "  if (payload.byteLength < 0)\n",
    caughtBy: [{ file: "test/protocol/batch.test.ts", only: "every flipped bit" }],
    budgetSeconds: 60,
  },
];
