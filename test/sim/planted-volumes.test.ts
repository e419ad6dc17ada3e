/**
 * Bugs of volumes that join and grow, put into the product from outside: each must break an invariant within a bounded number of
 * seeds whose volumes change. See `planted.test.ts`.
 */

import { VolumeChanges } from "../../site-agent/group/volume-changes.ts";
import { Shipper } from "../../site-agent/ship/shipper.ts";
import { changedDocuments, replaced, testPlants } from "./planted-run.ts";

interface Row {
  readonly number: number;
  readonly name: string;
  readonly sizeBytes: number;
  readonly changedAt: number;
  readonly wholeFrom: number | null;
  readonly imagePath: string;
}

/** After a crash between a record and the end of its intent the intent is dropped, and the table stays as it was. */
function forgottenIntent(): () => void {
  const begun = new WeakSet<VolumeChanges>();
  return replaced(
    VolumeChanges.prototype,
    "settle",
    (settle) =>
      async function (this: VolumeChanges, state, journal) {
        const isFirst = !begun.has(this);
        begun.add(this);
        return settle.call(this, isFirst ? { ...state, changing: null } : state, journal);
      },
  );
}

testPlants(
  {
    "a standby's document calls a volume whole whose content is on its way": {
      sabotage: () =>
        changedDocuments<{ volumes: Row[] }>("gateway", "state.json", (document) => ({
          ...document,
          volumes: document.volumes.map((row) => ({ ...row, wholeFrom: row.wholeFrom ?? row.changedAt })),
        })),
      breaks: ["I2", "I4", "I11"],
    },
    "the hand-over includes volumes that are not whole": {
      sabotage: () =>
        changedDocuments<{ sealed: number; volumes: Row[]; leftOut: Row[] }>(
          "gateway",
          "handover.json",
          (document) => {
            const { sealed, volumes, leftOut } = document;
            const more = leftOut.map(({ number, name, sizeBytes }) => ({
              ...{ number, name, sizeBytes, foundingBytes: null, changedAt: 0, wholeFrom: sealed },
              imagePath: volumes[0]!.imagePath.replace(volumes[0]!.name, name),
            }));
            return { ...document, volumes: [...volumes, ...more], leftOut: [] };
          },
        ),
      breaks: ["I1", "I4"],
    },
    "a change is forgotten after a crash between its record and the end of its intent": {
      replace: forgottenIntent,
      breaks: ["I1", "I3", "I8"],
    },
    "a volume is changed although the standby was never asked": {
      replace: () =>
        replaced(Shipper.prototype, "askForTable", () => () => Promise.resolve("ready" as const)),
      breaks: ["I4", "I8"],
    },
  },
  ({ volumes }) => volumes !== undefined,
);
