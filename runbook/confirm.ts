/** The one confirmation there is: typing the group's name. Never a yes that a finger gives by itself. */
import { ExitCode } from "../protocol/admin.ts";
import type { Call } from "./command.ts";
import { CommandFailure, usageFailure } from "./failure.ts";

/** Settles when --yes was given or the name typed. CommandFailure otherwise; nothing has been done then. */
export async function confirmName(call: Call, name: string, warning: string): Promise<void> {
  if (call.yes) return;
  const typed = await call.terminal.ask(`${warning}\nType the group's name to go on (${name}): `);
  if (typed === undefined) {
    throw usageFailure("there is no terminal to confirm at", "Add --yes if this is what you want.");
  }
  if (typed.trim() === name) return;
  throw new CommandFailure({
    exit: ExitCode.refused,
    id: "NOT_CONFIRMED",
    message: "the name was not confirmed; nothing has been changed",
    next: `Type ${name} when asked, or add --yes.`,
  });
}
