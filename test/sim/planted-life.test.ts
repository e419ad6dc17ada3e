/**
 * Bugs of pause and retire, put into the product from outside: each must break an invariant within a bounded number of seeds
 * with such orders. See `planted.test.ts`.
 */
import type { StandbyGroup } from "../../gateway/group.ts";
import { Shipper } from "../../site-agent/ship/shipper.ts";
import { Engine } from "../../site-agent/write-path/engine.ts";
import { changedDocuments, replaced, testPlants } from "./planted-run.ts";

testPlants(
  {
    "a paused owner ships what comes": {
      replace: () => replaced(Shipper.prototype, "pauseChanged", () => () => {}),
      breaks: ["I4"],
    },
    "a pause is remembered in memory only": {
      sabotage: () =>
        changedDocuments<{ paused: unknown }>("agent", "state.json", (document) => ({
          ...document,
          paused: null,
        })),
      breaks: ["I4", "I11"],
    },
  },
  ({ pauses }) => pauses.length > 0,
);

/** Its owner is told that all is well. */
function takesOn(group: StandbyGroup): void {
  const heartbeat = group.heartbeat.bind(group);
  group.heartbeat = (message) => {
    const answer = heartbeat(message);
    return answer.kind === "refused" && answer.code === "GROUP_RETIRED"
      ? { kind: "alive", durable: 0, applied: 0, stopped: null }
      : answer;
  };
}

testPlants(
  {
    "an owner is retired before its images hold everything": {
      replace: () => replaced(Engine.prototype, "drain", () => () => Promise.resolve(true)),
      breaks: ["I1", "I8"],
    },
    "a retired standby goes on listening to its owner": {
      sabotage: () => ({ standby: takesOn }),
      breaks: ["I4", "I6"],
    },
  },
  ({ retire }) => retire !== undefined,
);
