/**
 * Plants every bug of the list, one at a time, in a private copy of the tree, and runs the tests that must catch it.
 * The unpatched copy has to pass them first. Prints one line per bug and the score; the exit code is 0 only when all
 * were caught.
 *
 *   node dist/test/planted/main.js [--only ID,...] [--jobs N] [--no-baseline]
 */
import { parseArgs } from "node:util";
import { repositoryRoot } from "../support/tree.ts";
import { plantedBugs } from "./bugs.ts";
import type { Catcher, PlantedBug } from "./planted-bug.ts";
import { plant } from "./planted-bug.ts";
import { runTests } from "./run-tests.ts";
import { TreeCopy } from "./tree-copy.ts";

/** A sound copy needs longer than a broken one, which ends at its first failure, seconds for one file. */
const baselineSeconds = 180;

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    jobs: { type: "string", default: "1" },
    "no-baseline": { type: "boolean", default: false },
  },
});
const wanted = values.only?.split(",");
const bugs = plantedBugs.filter(({ id }) => wanted === undefined || wanted.some((part) => id.includes(part)));
if (bugs.length === 0) throw new Error(`no planted bug is called ${values.only}`);
const jobs = Math.max(1, Number(values.jobs));

/** Each file once per environment, with all titles that somebody names; a whole file covers them all. */
function baselineRuns(): { catchers: Catcher[]; env: Record<string, string> }[] {
  const runs = new Map<string, { catchers: Catcher[]; env: Record<string, string> }>();
  for (const bug of bugs) {
    for (const catcher of bug.caughtBy) {
      const env = { ...bug.env };
      const key = JSON.stringify([catcher.file, env]);
      const run = runs.get(key) ?? { catchers: [], env };
      run.catchers.push(catcher);
      runs.set(key, run);
    }
  }
  return [...runs.values()];
}

/** Takes items off one list with `jobs` copies of the tree. */
async function withCopies<T>(
  items: readonly T[],
  work: (copy: TreeCopy, item: T) => Promise<void>,
): Promise<void> {
  const left = [...items];
  await Promise.all(
    Array.from({ length: Math.min(jobs, items.length) }, async () => {
      const copy = new TreeCopy(repositoryRoot);
      const remove = (): void => copy.remove();
      process.once("exit", remove);
      try {
        for (let item = left.shift(); item !== undefined; item = left.shift()) {
          await work(copy, item);
          copy.clearScratch();
        }
      } finally {
        process.off("exit", remove);
        remove();
      }
    }),
  );
}

async function baselineHolds(): Promise<boolean> {
  let holds = true;
  await withCopies(baselineRuns(), async (copy, { catchers, env }) => {
    const file = catchers[0]!.file;
    const result = await runTests(copy, catchers, {
      env,
      budgetSeconds: baselineSeconds,
      stopAtCaught: false,
    });
    const sound = result.kind === "passed" && result.ran > 0;
    if (!sound) holds = false;
    console.log(
      `${sound ? "sound " : "FAILED"} ${result.seconds.toFixed(1).padStart(5)} s  ${file}` +
        `${sound ? "" : `: ${result.title} ${result.why} (${result.ran} tests)`}`,
    );
  });
  return holds;
}

type Verdict = "caught" | "MISSED" | "ERROR";

async function tryBug(copy: TreeCopy, bug: PlantedBug): Promise<Verdict> {
  const say = (verdict: Verdict, seconds: number, rest: string): Verdict => {
    console.log(`${verdict.padEnd(6)} ${seconds.toFixed(1).padStart(5)} s  ${bug.id}: ${rest}`);
    return verdict;
  };
  const sound = copy.has(bug.file) ? copy.read(bug.file) : "";
  const broken = plant(bug, sound);
  if (broken === undefined) return say("ERROR", 0, `the text to find is not exactly once in ${bug.file}`);
  const absent = bug.caughtBy.find(({ file }) => !copy.has(file));
  if (absent !== undefined) return say("ERROR", 0, `there is no ${absent.file}`);
  copy.write(bug.file, broken);
  try {
    let seconds = 0;
    let why = "";
    // One after another: different titles of different files must not be mixed.
    for (const catcher of bug.caughtBy) {
      const budgetSeconds = bug.budgetSeconds - seconds;
      const result = await runTests(copy, [catcher], {
        env: { ...bug.env },
        budgetSeconds,
        stopAtCaught: true,
      });
      seconds += result.seconds;
      if (result.kind === "broken") return say("ERROR", seconds, `the patch does not load: ${result.why}`);
      if (result.kind === "caught") return say("caught", seconds, `${result.title} (${result.why})`);
      why += `${catcher.file} ${result.kind} ${result.title} ${result.why}; `;
      if (seconds >= bug.budgetSeconds) break;
    }
    return say("MISSED", seconds, `${bug.does} ${why}`);
  } finally {
    copy.write(bug.file, sound);
  }
}

// So that the exit handlers run, which end what was started and remove the copies.
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(130));

const holds = values["no-baseline"] || (await baselineHolds());
if (!holds) console.log("the unpatched tree does not pass: nothing was planted");
let caught = 0;
if (holds) {
  await withCopies(bugs, async (copy, bug) => {
    if ((await tryBug(copy, bug)) === "caught") caught += 1;
  });
}
console.log(`planted bugs caught: ${caught} of ${bugs.length}`);
process.exitCode = caught === bugs.length ? 0 : 1;
