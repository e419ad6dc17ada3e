/**
 * The evidence sheet: adds up the figures that runs left behind and lays them out as a page. Pure; it judges nothing,
 * because a run that failed left no figures.
 */
import type { EvidenceKind, EvidenceLine } from "../support/evidence.ts";

/** What each kind of run counts as one independent trial, for the bound; its own table needs none. */
const trials: Readonly<Record<Exclude<EvidenceKind, "faults by state">, string>> = {
  simulation: "seeds",
  "crash states": "states",
  kills: "faults",
  "power cuts": "cuts",
  failovers: "failovers",
  corruptions: "injected",
  "disk faults": "runs",
  "line faults": "cuts",
  "hostile clients": "sessions",
  fuzzing: "executions",
  soak: "legs",
  overflows: "failovers",
};
type TrialKind = keyof typeof trials;

/** Rows and columns of the table of faults by state. */
export interface StateOrder {
  readonly families: readonly string[];
  readonly states: readonly string[];
}

export interface Machine {
  /** Of the day the page is made: 2026-05-31. */
  readonly day: string;
  readonly text: string;
}

type Figures = Map<string, number>;

/** Adds up; of a name that ends in `max` the largest counts. */
export function sumOf(lines: readonly EvidenceLine[]): Map<EvidenceKind, Figures> {
  const sums = new Map<EvidenceKind, Figures>();
  for (const { kind, figures } of lines) {
    const own = sums.get(kind) ?? new Map<string, number>();
    sums.set(kind, own);
    for (const [name, value] of Object.entries(figures)) {
      const before = own.get(name) ?? 0;
      own.set(name, name.endsWith("max") ? Math.max(before, value) : before + value);
    }
  }
  return sums;
}

/** Rule of three: no failure in n independent trials bounds the rate of failure with 95 % confidence. */
export function bound(count: number): string {
  return count === 0 ? "" : `< ${Number(((3 / count) * 100).toPrecision(1))} %`;
}

/**
 * `isNow`: of a commit, whether its product is that of the page's own, so that what was shown with it is shown of this one.
 */
export function sheet(
  lines: readonly EvidenceLine[],
  isNow: (commit: string) => boolean,
  order: StateOrder,
  machine: Machine,
): string {
  const current = lines.filter(({ commit }) => isNow(commit));
  const all = sumOf(lines);
  const now = sumOf(current);
  const kinds = (Object.keys(trials) as TrialKind[]).filter((kind) => all.has(kind));
  const count = (sums: Map<EvidenceKind, Figures>, kind: TrialKind): number =>
    sums.get(kind)?.get(trials[kind]) ?? 0;
  const rows = kinds.map((kind) => {
    const [own, ever] = [count(now, kind), count(all, kind)];
    return `| ${kind} | ${text(own)} ${trials[kind]} | ${bound(own)} | ${text(ever)} | ${bound(ever)} |`;
  });
  const details = (sums: Map<EvidenceKind, Figures>): string[] =>
    kinds.flatMap((kind) => {
      const rest = [...(sums.get(kind) ?? [])].filter(([name]) => name !== trials[kind]);
      return rest.length === 0 ? [] : [`- **${kind}**: ${rest.map(named).join("; ")}`];
    });
  const commits = (of: readonly EvidenceLine[]): string =>
    [...new Set(of.map(({ commit }) => commit))].join(", ");
  return `# Evidence

What the tests did, added up from their own records; a run that failed leaves none. Made by \`make evidence\`; what each kind
of run does stands in [testing.md](testing.md). "Now" is the product as it stands beside this page, tried at commits that
have the same sources of it: ${commits(current) || "none"}. "Ever" counts all its versions.

- made ${machine.day}
- machine: ${machine.text}

| kind | now | rate of failure, 95 % | ever | rate, 95 % |
| --- | ---: | ---: | ---: | ---: |
${rows.join("\n")}

The rate is the rule of three: no failure in n independent trials says that the rate of failure is below 3/n.
Trials of one kind share code and machine, so read it as the best that could be claimed, not as a promise.

## Seen now

${details(now).join("\n")}
${matrix(now.get("faults by state"), order)}
## Seen ever

At commits ${commits(lines)}.

${details(all).join("\n")}
`;
}

/** Faults of the simulation by what their group was in the middle of; nothing where there are none. */
function matrix(figures: Figures | undefined, { families, states }: StateOrder): string {
  if (figures === undefined) return "";
  const cell = (family: string, state: string): string => text(figures.get(`${family} while ${state}`) ?? 0);
  const rows = families.map(
    (family) => `| ${family} | ${states.map((state) => cell(family, state)).join(" | ")} |`,
  );
  return `
Faults of the simulation, by what the group that they struck was in the middle of:

| fault | ${states.join(" | ")} |
| --- | ${states.map(() => "---:").join(" | ")} |
${rows.join("\n")}
`;
}

function named([name, value]: readonly [string, number]): string {
  return `${name} ${text(value)}`;
}

function text(value: number): string {
  return value.toLocaleString("en-US", { maximumFractionDigits: 1 });
}
