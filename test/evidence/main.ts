/**
 * `make evidence`: writes docs/evidence.md from the figures that a run of the tests left in a folder.
 * `node main.js FOLDER PAGE`. Adds up and prints; it judges nothing, because a run that failed left no figures.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { join } from "node:path";
import { runTool } from "../support/child.ts";
import type { EvidenceKind, EvidenceLine } from "../support/evidence.ts";
import { evidenceFileName } from "../support/evidence.ts";

const [folder = join("build", "evidence"), page = join("docs", "evidence.md")] = process.argv.slice(2);

/** What each kind of run counts as one independent trial, for the bound. */
const trials: Readonly<Record<EvidenceKind, string>> = {
  simulation: "seeds",
  "crash states": "states",
  kills: "faults",
  "power cuts": "cuts",
  failovers: "failovers",
  corruptions: "injected",
  "disk faults": "runs",
  "line faults": "runs",
  "hostile clients": "sessions",
  fuzzing: "executions",
  soak: "legs",
};

const sums = new Map<EvidenceKind, Map<string, number>>();
for (const line of readFileSync(join(folder, evidenceFileName), "utf8").trimEnd().split("\n")) {
  const { kind, figures } = JSON.parse(line) as EvidenceLine;
  const own = sums.get(kind) ?? new Map<string, number>();
  sums.set(kind, own);
  for (const [name, value] of Object.entries(figures)) {
    const before = own.get(name) ?? 0;
    own.set(name, name.endsWith("max") ? Math.max(before, value) : before + value);
  }
}

/** Rule of three: no failure in n independent trials bounds the rate of failure with 95 % confidence. */
function bound(count: number): string {
  return count === 0 ? "" : `< ${Number(((3 / count) * 100).toPrecision(1))} %`;
}

const text = (value: number): string => value.toLocaleString("en-US", { maximumFractionDigits: 1 });
const rows = [...sums].map(([kind, figures]) => {
  const count = figures.get(trials[kind]) ?? 0;
  const rest = [...figures].filter(([name]) => name !== trials[kind]);
  return `| ${kind} | ${text(count)} ${trials[kind]} | ${rest.map(([name, value]) => `${name} ${text(value)}`).join("; ")} | ${bound(count)} |`;
});
const commit = (await runTool("git", ["rev-parse", "--short", "HEAD"])).stdout.trim() || "unknown";

writeFileSync(
  page,
  `# Evidence

What the tests did, added up from their own records; a run that failed leaves none. Made by
\`make evidence\`; what each kind of run does stands in [testing.md](testing.md).

- commit ${commit}, ${new Date().toISOString().slice(0, 10)}
- machine: ${cpus().length} x ${cpus()[0]?.model ?? "?"}, Linux ${release()}, Node ${process.version}

| kind | trials | what was seen | rate of failure, 95 % |
| --- | ---: | --- | ---: |
${rows.join("\n")}

The last column is the rule of three: no failure in n independent trials says that the rate of failure is below 3/n.
Trials of one kind share code and machine, so read it as the best that could be claimed, not as a promise.
`,
);
console.log(`wrote ${page}`);
