/** A failover's plan and result in words. Pure; the gateway decides, this only says it. */
import type { FailoverPlan, FailoverResult, LossStatement } from "../../protocol/admin.ts";
import { bytesText, countText, durationText, plural } from "./quantities.ts";
import type { Painter } from "./status.ts";
import { table } from "./table.ts";

export function lossText(loss: LossStatement): string {
  const least = `${plural(loss.writesMin, "write")}, ${bytesText(loss.bytesMin)}`;
  if (loss.known === "exact") return loss.writesMin === 0 ? "nothing" : `exactly ${least}`;
  const since =
    loss.since === null
      ? "the old owner was never heard"
      : `the last contact with the old owner at ${loss.since}`;
  return `unknown since ${since}; at least ${least}`;
}

const outcomeStyle = { pass: "green", warn: "yellow", fail: "red" } as const;

export function planText(plan: FailoverPlan, paint: Painter): string {
  const point =
    plan.point === null
      ? "none: there is nothing to open yet"
      : `${plan.point.time} (sequence ${countText(plan.point.sequence)})`;
  const head = table(
    [
      ["move", `${plan.oldOwner} -> ${plan.newOwner}, epoch ${plan.epoch} -> ${plan.nextEpoch}`],
      ["point", point],
      ["lost", lossText(plan.loss)],
      ["to apply", `${plural(plan.toApply.records, "record")}, ${bytesText(plan.toApply.bytes)}`],
    ],
    "  ",
  );
  const steps = plan.steps.map((step, index) => `  ${index + 1}  ${step}\n`).join("");
  const checks = table(
    plan.checks.map((check) => [
      paint(outcomeStyle[check.outcome], check.outcome.padEnd(4)),
      check.message,
      paint("dim", check.id),
    ]),
    "  ",
  );
  return `FAILOVER of ${paint("bold", plan.group)}\n${head}steps\n${steps}checks\n${checks}`;
}

export function resultText(result: FailoverResult): string {
  const exports = result.exports.map(({ volume, uri }) => [volume, uri]);
  return (
    `${result.group} is served here since epoch ${result.epoch}, at ${result.point.time} (sequence ${countText(result.point.sequence)}), after ${durationText(result.durationMs)}\n` +
    `lost: ${lossText(result.loss)}\n${table(exports, "  ")}evidence: ${result.evidence}\n`
  );
}
