/** Planted bugs of an owner whose volume table changes: what is ready, written down, served, kept and told, and when. */
import type { PlantedBug } from "../planted-bug.ts";

const life = "test/site-agent/group/volume-change.test.ts";
const changes = "site-agent/group/volume-changes.ts";

export const volumeOwnerBugs: readonly PlantedBug[] = [
  {
    id: "volume-owner/record-before-files",
    does: "A grown volume's record is written although its image was not made longer.",
    file: "site-agent/group/volume-files.ts",
    find: "  await images.grow({ path: imagePath, fromBytes, toBytes: sizeBytes, onProgress: world.goOn });\n",
    replace: "",
    caughtBy: [{ file: life, only: "grows and two join" }],
    budgetSeconds: 60,
  },
  {
    id: "volume-owner/table-before-record",
    does: "The document has the new table before its records are in the journal.",
    file: changes,
    find: "      await save({ ...state, changing: intent });\n",
    replace:
      "      const meant = recordsOf(intent).map((record, at) => ({ sequence: intent.after + 1 + at, record }));\n" +
      "      const table = tableWith(state.volumes, intent, meant, state.standby !== null);\n" +
      "      await save({ ...state, volumes: table, changing: intent });\n",
    caughtBy: [{ file: life, only: "at any step of a change" }],
    env: { SEED: "1", SPLITSITE_VOLUME_STATES: "200" },
    budgetSeconds: 180,
  },
  {
    id: "volume-owner/intent-dropped",
    does: "An intent is dropped although its records are in the journal.",
    file: changes,
    find: "    const found = await changesBehind(journal, intent.after);\n",
    replace: "    const found = await changesBehind(journal, journal.tail.sequence);\n",
    caughtBy: [{ file: life, only: "grows and two join" }],
    budgetSeconds: 60,
  },
  {
    id: "volume-owner/change-dropped-by-overflow",
    does: "A change that the standby has not taken is dropped with the rest of a full journal.",
    file: changes,
    find: "      if (changedAt > acknowledged) limit = Math.min(limit, changedAt - 1);\n",
    replace: "      if (changedAt < 0) limit = Math.min(limit, acknowledged);\n",
    caughtBy: [{ file: life, only: "a full journal drops nothing" }],
    budgetSeconds: 60,
  },
  {
    id: "volume-owner/standby-not-asked",
    does: "A change is made although the standby says that it is not ready.",
    file: changes,
    find: '    return answer === "ready" ? null : { code: answer.code, message: answer.message };\n',
    replace: "    return null;\n",
    caughtBy: [{ file: life, only: "waits until the standby is ready" }],
    budgetSeconds: 60,
  },
  {
    id: "volume-owner/smaller-taken",
    does: "A volume that is smaller in the configuration is taken for unchanged.",
    file: "site-agent/group/volume-decision.ts",
    find: "    if (found.sizeBytes === volume.sizeBytes) continue;\n",
    replace: "    if (found.sizeBytes <= volume.sizeBytes) continue;\n",
    also: [
      {
        find: '    if (found.sizeBytes < volume.sizeBytes) return { kind: "refused", code: "VOLUME_SMALLER", volume: name };\n',
        replace: "",
      },
    ],
    caughtBy: [{ file: life, only: "a table that cannot be is refused" }],
    budgetSeconds: 60,
  },
  {
    id: "volume-owner/data-not-told",
    does: "A standby that is made anew is not told that a volume held data before its record.",
    file: changes,
    find: '      initial: added ? "data" : state.initial,\n',
    replace: "      initial: state.initial,\n",
    also: [
      {
        find: "    const added = intent.volumes.slice(0, found.length).some(({ holdsData }) => holdsData);\n",
        replace: "",
      },
    ],
    caughtBy: [{ file: life, only: "grows and two join" }],
    budgetSeconds: 60,
  },
  {
    id: "volume-owner/told-without-its-data",
    does: "A volume that joins with data is told before it is said that it held any.",
    file: "site-agent/group/told-table.ts",
    find: `state.initial === "data" || durable.some(({ holdsData }) => holdsData)`,
    replace: `state.initial === "data"`,
    caughtBy: [{ file: "test/site-agent/group/told-table.test.ts" }],
    budgetSeconds: 30,
  },
  {
    id: "volume-owner/turn-lost-by-growth",
    does: "A volume that grows leaves the list that a volume sync counts its place by.",
    file: "site-agent/scan/group-scans.ts",
    find: 'document.purpose === "volume-sync" ? walkedBy(ground, document)',
    replace: 'document.purpose === "volume-sync" ? (walkedBy(ground, document), partialOf(ground, document))',
    caughtBy: [{ file: life, only: "keeps its turn" }],
    budgetSeconds: 60,
  },
  {
    id: "volume-owner/whole-before-its-content",
    does: "A volume that held data is called whole at the standby from its record on.",
    file: "site-agent/group/volume-intent.ts",
    find: "      const wholeFrom = holdsData && hasStandby ? null : sequence;\n",
    replace: "      const wholeFrom = hasStandby ? sequence : null;\n",
    caughtBy: [{ file: life, only: "grows and two join" }],
    budgetSeconds: 60,
  },
];
