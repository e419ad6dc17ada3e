/**
 * Runs test files in a copy of the tree and tells what the first telling failure was. Ends the processes it started,
 * and those they started, when it has seen enough or the time is over; never others.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { TestOutcome } from "./judge.ts";
import { judge } from "./judge.ts";
import type { Catcher } from "./planted-bug.ts";
import type { TreeCopy } from "./tree-copy.ts";

export interface RunResult {
  /** `passed`: no test failed. `unclear`: one failed without seeing anything, or time was up. */
  readonly kind: "passed" | "caught" | "unclear" | "broken";
  readonly title: string;
  readonly why: string;
  readonly seconds: number;
  /** Tests that passed or failed; skipped ones and suites are not counted. */
  readonly ran: number;
}

/** Kept of what a run printed on stderr, characters: enough for the error that ended it. */
const stderrCharsMax = 4_000;

function commandOf(copy: TreeCopy, catchers: readonly Catcher[]): string[] {
  const patterns = catchers.every(({ only }) => only !== undefined)
    ? catchers.map(({ only }) => `--test-name-pattern=${only}`)
    : [];
  return [
    ...["--import", "tsx", "--test", "--test-concurrency=1"],
    `--test-reporter=${join(copy.root, "test/planted/reporter.mjs")}`,
    ...patterns,
    ...new Set(catchers.map(({ file }) => file)),
  ];
}

/** `stopAtCaught`: ends with the first failure that counts, without waiting for the other tests. */
export async function runTests(
  copy: TreeCopy,
  catchers: readonly Catcher[],
  options: {
    readonly env: Readonly<Record<string, string>>;
    readonly budgetSeconds: number;
    readonly stopAtCaught: boolean;
  },
): Promise<RunResult> {
  const startedMs = performance.now();
  const environment: NodeJS.ProcessEnv = { ...process.env, ...options.env, TMPDIR: copy.scratch };
  // Set inside a test run; it would make the run below report to that one.
  delete environment["NODE_TEST_CONTEXT"];
  // A group of its own, so that processes which the tests started end with it.
  const child = spawn(process.execPath, commandOf(copy, catchers), {
    cwd: copy.root,
    env: environment,
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let ended = false;
  const end = (): void => {
    if (ended || child.pid === undefined) return;
    ended = true;
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch {
      // The whole group is gone already.
    }
  };
  // Before the copy is removed, which was made earlier: nobody may write into it then.
  process.prependOnceListener("exit", end);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    end();
  }, options.budgetSeconds * 1000);
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => {
    stderr = (stderr + chunk.toString()).slice(-stderrCharsMax);
  });
  let ran = 0;
  let worst: { kind: "caught" | "unclear" | "broken"; title: string; why: string } | undefined;
  const exited = once(child, "exit");
  for await (const line of createInterface({ input: child.stdout })) {
    if (!line.startsWith("{")) continue;
    const outcome = JSON.parse(line) as TestOutcome;
    if (outcome.outcome !== "skip" && !outcome.suite) ran += 1;
    const found = judge(outcome);
    if (found.kind === "fine") continue;
    if (worst === undefined || (worst.kind === "unclear" && found.kind !== "unclear"))
      worst = { ...found, title: outcome.title };
    if (worst.kind === "caught" && options.stopAtCaught) end();
  }
  const [code] = await exited;
  clearTimeout(timer);
  // Whatever the tests left running goes with the group.
  end();
  process.off("exit", end);
  const seconds = (performance.now() - startedMs) / 1000;
  if (worst !== undefined && worst.kind !== "unclear") return { ...worst, seconds, ran };
  if (late)
    return { kind: "unclear", title: "", why: `no verdict within ${options.budgetSeconds} s`, seconds, ran };
  // A file that does not load is one failed test without a reason; the reason is on stderr.
  if (
    /SyntaxError|TransformError|Transform failed|ERR_MODULE_NOT_FOUND|does not provide an export/.test(stderr)
  )
    return { kind: "broken", title: worst?.title ?? "", why: stderr.slice(-300), seconds, ran };
  if (worst !== undefined) return { ...worst, seconds, ran };
  if (code !== 0)
    return { kind: "unclear", title: "", why: `exit ${String(code)}: ${stderr.slice(-300)}`, seconds, ran };
  return { kind: "passed", title: "", why: "", seconds, ran };
}
