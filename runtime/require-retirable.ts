/**
 * The refusal of an order to retire a group, as both roles give it. Decides nothing: which checks stand against the order is
 * the plan's to say.
 */
import type { RetirePlan } from "../protocol/retirement.ts";
import { retireObstacle } from "../protocol/retirement.ts";
import { OperationalError } from "./errors.ts";

/**
 * OperationalError (`refuse`) of the first check that forbids the order; nothing was changed then. `unlessForced`: what an
 * operator does whom only a check stops that force passes over.
 */
export function requireRetirable(plan: RetirePlan, force: boolean, unlessForced: string): void {
  const obstacle = retireObstacle(plan, force);
  if (obstacle === undefined) return;
  throw new OperationalError({
    code: obstacle.id,
    message: obstacle.message,
    reaction: "refuse",
    hint: obstacle.forcible
      ? unlessForced
      : "Nothing was changed. See: splitsite group retire GROUP --dry-run.",
  });
}
