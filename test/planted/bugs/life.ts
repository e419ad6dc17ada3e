/** Planted bugs of a group's life: a pause that leaks or is forgotten, an end that loses something or is none. */
import type { PlantedBug } from "../planted-bug.ts";

const pause = "test/site-agent/group/pause.test.ts";
const owner = "test/site-agent/group/retire-owner.test.ts";
const standby = "test/gateway/retire-standby.test.ts";
const env = { SEED: "1" };

export const lifeBugs: readonly PlantedBug[] = [
  {
    id: "life/pause-not-durable",
    does: "A pause is remembered in memory only.",
    file: "site-agent/group/owned-group.ts",
    find: "    await this.#kept.save({ ...state, paused });\n",
    replace: "    Object.assign(state, { paused });\n",
    caughtBy: [{ file: pause, only: "outlives a kill" }],
    budgetSeconds: 30,
  },
  {
    id: "life/paused-ships-what-comes",
    does: "A pause gives up what is on its way, and the next record is shipped all the same.",
    file: "site-agent/ship/turn.ts",
    find: "    if (this.state.paused || this.nowMs < this.state.pausedUntilMs) return this.noteWaiting();\n",
    replace: "    if (this.nowMs < this.state.pausedUntilMs) return this.noteWaiting();\n",
    caughtBy: [{ file: "test/site-agent/ship/machine.test.ts", only: "SH13" }],
    budgetSeconds: 60,
  },
  {
    id: "life/pause-not-told",
    does: "Heartbeats do not say that the group is paused.",
    file: "site-agent/ship/shipper.ts",
    find: "      ...(paused === null ? {} : { paused }),\n",
    replace: "",
    caughtBy: [{ file: pause, only: "is told to the standby" }],
    budgetSeconds: 30,
  },
  {
    id: "life/paused-is-called-protected",
    does: "A paused group with nothing behind is called protected.",
    file: "site-agent/group/status.ts",
    find: '  if (facts.paused !== null) return { state: "at-risk", reason: pausedReason(facts.paused) };\n',
    replace: "",
    caughtBy: [{ file: pause, only: "is told to the standby" }],
    budgetSeconds: 30,
  },
  {
    id: "life/retired-forgotten-at-restart",
    does: "A retired owner is served again by a restart.",
    file: "site-agent/group/start-decision.ts",
    find: '  if (state?.role === "retired") return { kind: "stay-retired" };\n',
    replace: "",
    caughtBy: [
      { file: owner, only: "never served again" },
      { file: "test/site-agent/group/start-decision.test.ts" },
    ],
    env,
    budgetSeconds: 60,
  },
  {
    id: "life/retired-before-acknowledged",
    does: "An owner is retired although its standby lacks something.",
    file: "site-agent/group/retire.ts",
    find: "  if (writes === 0) return passed(",
    replace: "  if (writes >= 0) return passed(",
    also: [
      {
        find: "if (!force && !(await ground.acknowledged(acknowledgeMs)))",
        replace: "if (!force && !(await ground.acknowledged(1)))",
      },
    ],
    caughtBy: [{ file: owner, only: "only by force" }],
    env,
    budgetSeconds: 60,
  },
  {
    id: "life/retired-before-applied",
    does: "The document says retired before the images hold what was answered.",
    file: "site-agent/group/retire.ts",
    find: "    if (!(await ground.drain())) {\n",
    replace: "    if (ground.facts().written < 0) {\n",
    caughtBy: [{ file: owner, only: "cut short anywhere" }],
    env,
    budgetSeconds: 90,
  },
  {
    id: "life/retired-standby-takes-batches",
    does: "A standby that was retired takes batches after a restart.",
    file: "gateway/receive/answers.ts",
    find: "  if (document?.retired != null) return judgeToken(sent, document.token) ?? retiredRefusal;\n",
    replace: "",
    caughtBy: [{ file: standby, only: "takes nothing" }],
    env,
    budgetSeconds: 60,
  },
  {
    id: "life/retired-standby-fails-over",
    does: "A standby that was retired is handed over.",
    file: "gateway/failover/plan.ts",
    find: '  if (retired) return fail("GROUP_RETIRED", "the standby was retired here: it is handed over to nobody");\n',
    replace: "  void retired;\n",
    caughtBy: [{ file: standby, only: "takes nothing" }],
    env,
    budgetSeconds: 60,
  },
  {
    id: "life/retired-seal-forgotten",
    does: "A standby that is started in the midst of its retirement applies all it received, beyond its seal.",
    file: "gateway/open-standby.ts",
    find: "  const seal = retired?.seal ?? failover?.seal;\n",
    replace: "  const seal = retired === undefined ? undefined : failover?.seal;\n",
    caughtBy: [{ file: standby, only: "midst of a resync" }],
    env,
    budgetSeconds: 60,
  },
  {
    id: "life/unreadable-called-unknown",
    does: "A standby whose document cannot be read says that there is none.",
    file: "gateway/retire.ts",
    find: "  if (document === undefined && trouble !== null) return failed(trouble.code, trouble.message);\n",
    replace: "",
    caughtBy: [{ file: "test/gateway/retire-standby.test.ts", only: "document cannot be read" }],
    budgetSeconds: 30,
  },
];
