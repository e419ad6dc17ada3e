/**
 * Bugs of an overflow, put into the product from outside: each must break an invariant within a bounded number of seeds whose
 * journals overflow. See `planted.test.ts`.
 */
import { ResyncPin } from "../../gateway/apply/resync-pin.ts";
import type { RowChange } from "../../journal/store.ts";
import { changedDocuments, replaced, testPlants } from "./planted-run.ts";
import type { Sabotage } from "./run/sites.ts";

/** The notes of a drop are written with the next one: until then the frames are gone and nothing says so. */
function lateNotes(): Sabotage {
  return {
    stores: (engine, _site, role) =>
      role === "gateway"
        ? engine
        : {
            ...engine,
            open: async (...all) => {
              const store = await engine.open(...all);
              const { putHead } = store;
              let late: RowChange[] = [];
              store.putHead = (value, rows = []) => {
                const now = [...late, ...rows.filter(({ table }) => table !== "note")];
                late = rows.filter(({ table }) => table === "note");
                return putHead.call(store, value, now);
              };
              return store;
            },
          },
  };
}

/** A standby's document never says that a gap made its images incomplete. */
function hiddenGaps(): Sabotage {
  return changedDocuments<{ incomplete: { purpose: string } | null }>("gateway", "state.json", (document) =>
    document.incomplete?.purpose === "resync" ? { ...document, incomplete: null } : document,
  );
}

/** The point before a gap is given back as soon as it is taken. */
function earlyRelease(): () => void {
  return replaced(
    ResyncPin.prototype,
    "take",
    (take) =>
      async function (this: ResyncPin, held) {
        await take.call(this, held);
        await this.giveBack();
      },
  );
}

testPlants(
  {
    "dirty bits are written after the frames are dropped": { sabotage: lateNotes, breaks: ["I2", "I8"] },
    "a gap is hidden": { sabotage: hiddenGaps, breaks: ["I2", "I4"] },
    "the pin of a gap is released early": { replace: earlyRelease, breaks: ["I4"] },
  },
  ({ overflow }) => overflow !== undefined,
);
