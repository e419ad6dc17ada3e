/**
 * `make bench`: runs the benchmarks one after another and writes what they found, with date, machine, commit and
 * command, to `bench/results/`. A target missed is shown, never an exit code: timing belongs to the machine. Options:
 * `--only s1,s3 --seconds 8 --rounds 3 --out FOLDER`.
 */
import { spawnSync } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { cpus, release, totalmem } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { runTool } from "../test/support/child.ts";
import { measure as firstSync } from "./first-sync.ts";
import { measure as s1 } from "./s1.ts";
import { measure as s2 } from "./s2.ts";
import { measure as s3 } from "./s3.ts";
import { measure as s4 } from "./s4.ts";
import { measure as s5 } from "./s5.ts";
import { measure as s6 } from "./s6.ts";
import { measure as s9 } from "./s9.ts";
import { measure as s10 } from "./s10.ts";
import { measure as s11 } from "./s11.ts";
import type { Benchmark, Section } from "./section.ts";
import { figure } from "./section.ts";
import { measure as verify } from "./verify.ts";

// What is measured in this process has the pool of threads and the heap that a site has (runbook/splitsite.cts).
const environment = { UV_THREADPOOL_SIZE: "16", MIMALLOC_PURGE_DELAY: "0" };
if (Object.keys(environment).some((name) => process.env[name] === undefined)) {
  const flags = ["--heap-growing-percent=150", ...process.execArgv];
  const { status } = spawnSync(process.execPath, [...flags, ...process.argv.slice(1)], {
    env: { ...environment, ...process.env },
    stdio: "inherit",
  });
  process.exit(status ?? 1);
}

const benchmarks: Readonly<Record<string, Benchmark>> = {
  s1,
  s2,
  s3,
  s4,
  s5,
  s6,
  s9,
  s10,
  s11,
  "first-sync": firstSync,
  verify,
};

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    seconds: { type: "string", default: "8" },
    rounds: { type: "string", default: "3" },
    out: { type: "string", default: join("bench", "results") },
  },
});

const chosen = values.only?.split(",") ?? Object.keys(benchmarks);
for (const name of chosen) {
  if (benchmarks[name] === undefined) {
    console.error(`no benchmark ${name}; there are ${Object.keys(benchmarks).join(", ")}`);
    process.exit(2);
  }
}
const seconds = Number(values.seconds);
const rounds = Number(values.rounds);
if (!(seconds >= 1 && rounds >= 1)) {
  console.error("--seconds and --rounds must be 1 or more");
  process.exit(2);
}

const sections: Section[] = [];
let failed = false;
for (const name of chosen) {
  console.log(`== ${name}`);
  try {
    const section = await benchmarks[name]!({ seconds, rounds, report: (line) => console.log(`   ${line}`) });
    sections.push(section);
    console.log(sectionText(section));
  } catch (error) {
    failed = true;
    console.error(`   ${name} failed: ${error instanceof Error ? error.message : String(error)}`);
  }
}

const commit = (await runTool("git", ["rev-parse", "--short", "HEAD"])).stdout.trim() || "unknown";
const now = new Date();
const text = `# Benchmark of ${now.toISOString()}

- commit ${commit}
- machine: ${cpus().length} x ${cpus()[0]?.model ?? "?"}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, Linux ${release()}, Node ${process.version}
- command: \`node dist/bench/main.js ${process.argv.slice(2).join(" ")}\`
- ${seconds} s a measurement, ${rounds} alternating rounds, medians; ratios are medians of the ratio within each round

Quote the ratios: absolute figures belong to this machine and this minute.

${sections.map(sectionText).join("\n")}`;
await mkdir(values.out, { recursive: true });
const file = join(
  values.out,
  `${now.toISOString().slice(0, 10)}-${commit}${values.only === undefined ? "" : `-${chosen.join("-")}`}.md`,
);
await writeFile(file, text);
console.log(`written to ${file}`);
process.exitCode = failed ? 1 : 0;

function sectionText(section: Section): string {
  const heading = `## ${section.id}: ${section.title}\n`;
  if (section.skipped !== undefined) return `${heading}\nSkipped: ${section.skipped}.\n`;
  const columns = [...new Set(section.rows.flatMap(({ cells }) => Object.keys(cells)))];
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const table = [
    line(["", ...columns]),
    line(["---", ...columns.map(() => "---:")]),
    ...section.rows.map(({ name, cells }) => line([name, ...columns.map((column) => cells[column] ?? "")])),
  ];
  const goals = section.goals.map(
    ({ text, value, unit, met }) =>
      `- ${met ? "met" : "MISSED"}: ${text}: ${figure(value)}${unit === "x" ? "" : ` ${unit}`}`,
  );
  return `${heading}\n${table.join("\n")}\n\n${[...goals, ...section.notes.map((note) => `- note: ${note}`)].join("\n")}\n`;
}
