/** The end of a group's life in words: what would be done, and what is left. Pure; the daemon decides, this only says it. */
import type { RetiredStatus, RetirePlan } from "../../protocol/retirement.ts";
import { bytesText, countText, plural } from "./quantities.ts";
import type { Painter } from "./status.ts";
import { table } from "./table.ts";

const outcomeStyle = { pass: "green", warn: "yellow", fail: "red" } as const;

export function retirePlanText(plan: RetirePlan, paint: Painter): string {
  const { loss } = plan;
  const head = table(
    [
      ["ends", `${plan.part} at ${plan.site}, at sequence ${countText(plan.sequence)}`],
      [
        "lost",
        loss.writes === 0
          ? "nothing"
          : `${plural(loss.writes, "write")}, ${bytesText(loss.bytes)}, at the standby`,
      ],
    ],
    "  ",
  );
  const steps = plan.steps.map((step, index) => `  ${index + 1}  ${step}\n`).join("");
  const checks = table(
    plan.checks.map(({ id, outcome, message, forcible }) => [
      paint(outcomeStyle[outcome], outcome.padEnd(4)),
      `${message}${forcible ? " (--force passes over it)" : ""}`,
      paint("dim", id),
    ]),
    "  ",
  );
  return `RETIRE ${paint("bold", plan.group)}\n${head}steps\n${steps}checks\n${checks}${leftText(plan)}`;
}

export function retiredText(group: string, retired: RetiredStatus): string {
  const { since, by, reason, sequence } = retired;
  const who = by === "" ? "" : ` by ${by}`;
  const why = reason === "" ? "" : `: ${reason}`;
  return `${group} was retired here${who} at ${since}${why}\nits disks are complete at sequence ${countText(sequence)}\n${leftText(retired)}`;
}

/** Rows of a status screen. */
export function retiredRows({ images, deletable }: RetiredStatus): string[][] {
  return [
    ...images.map(({ volume, path }) => [`disk ${volume}`, path]),
    ["may be deleted", `once the group is out of the configuration: ${deletable.join(", ")}`],
  ];
}

function leftText({ images, deletable }: Pick<RetirePlan, "images" | "deletable">): string {
  const disks = table(
    images.map(({ volume, path }) => [volume, path]),
    "  ",
  );
  const rest = deletable.map((path) => `  ${path}\n`).join("");
  return `disks that stay\n${disks}may be deleted by hand once the group is out of the configuration\n${rest}`;
}
