/**
 * `make evidence`: writes docs/evidence.md from the figures that runs of the tests left behind.
 * `node main.js PAGE FOLDER...`: a long campaign is run in slices. Adds up and prints; it
 * judges nothing, because a run that failed left no figures.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { join } from "node:path";
import type { EvidenceKind, EvidenceLine } from "../support/evidence.ts";
import { evidenceFileName } from "../support/evidence.ts";

const [page = join("docs", "evidence.md"), ...folders] = process.argv.slice(2);

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
  overflows: "failovers",
};

interface Sum {
  readonly figures: Map<string, number>;
  readonly commits: Set<string>;
}

const sums = new Map<EvidenceKind, Sum>();
const lines = (folders.length > 0 ? folders : [join("build", "evidence")]).flatMap((folder) =>
  readFileSync(join(folder, evidenceFileName), "utf8").trimEnd().split("\n"),
);
for (const line of lines) {
  const { commit, kind, figures } = JSON.parse(line) as EvidenceLine;
  const own = sums.get(kind) ?? { figures: new Map<string, number>(), commits: new Set<string>() };
  sums.set(kind, own);
  own.commits.add(commit);
  for (const [name, value] of Object.entries(figures)) {
    const before = own.figures.get(name) ?? 0;
    own.figures.set(name, name.endsWith("max") ? Math.max(before, value) : before + value);
  }
}

/** Rule of three: no failure in n independent trials bounds the rate of failure with 95 % confidence. */
function bound(count: number): string {
  return count === 0 ? "" : `< ${Number(((3 / count) * 100).toPrecision(1))} %`;
}

const text = (value: number): string => value.toLocaleString("en-US", { maximumFractionDigits: 1 });
const rows = [...sums].map(([kind, { figures, commits }]) => {
  const count = figures.get(trials[kind]) ?? 0;
  const rest = [...figures].filter(([name]) => name !== trials[kind]);
  return `| ${kind} | ${text(count)} ${trials[kind]} | ${rest.map(([name, value]) => `${name} ${text(value)}`).join("; ")} | ${bound(count)} | ${[...commits].join(", ")} |`;
});

writeFileSync(
  page,
  `# Evidence

What the tests did, added up from their own records; a run that failed leaves none. Made by
\`make evidence\`; what each kind of run does stands in [testing.md](testing.md).

- made ${new Date().toISOString().slice(0, 10)}
- machine: ${cpus().length} x ${cpus()[0]?.model ?? "?"}, Linux ${release()}, Node ${process.version}

| kind | trials | what was seen | rate of failure, 95 % | commit |
| --- | ---: | --- | ---: | --- |
${rows.join("\n")}

The rate is the rule of three: no failure in n independent trials says that the rate of failure is below 3/n.
Trials of one kind share code and machine, so read it as the best that could be claimed, not as a promise.
`,
);
console.log(`wrote ${page}`);
