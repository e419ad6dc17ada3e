/** A long order as lines for the one who gave it: what is done, then its result, or why there is none. It goes on when he goes away. */
import type { AdminLine } from "../protocol/admin.ts";
import { ExitCode } from "../protocol/admin.ts";
import type { Clock } from "./clock.ts";
import { rfc3339 } from "./clock.ts";
import { errorCode, errorText, OperationalError } from "./errors.ts";
import { LineQueue } from "./line-queue.ts";

export interface LongOrder {
  /** Stable word of the one progress line. */
  readonly step: string;
  readonly message: string;
  readonly clock: Clock;
  /** What to do where an error brings no advice of its own. */
  readonly advice: string;
}

export function orderLines(order: LongOrder, run: () => Promise<unknown>): AsyncIterable<AdminLine> {
  const { step, message, clock, advice } = order;
  const lines = new LineQueue();
  lines.push({ type: "progress", step, message, time: rfc3339(clock.wallMs()) });
  const follow = async (): Promise<void> => {
    try {
      lines.push({ type: "result", result: await run() });
    } catch (error) {
      const known = error instanceof OperationalError ? error : undefined;
      lines.push({
        type: "error",
        code: known?.reaction === "refuse" ? ExitCode.refused : ExitCode.failed,
        id: errorCode(error),
        message: errorText(error),
        try: known?.hint ?? advice,
      });
    }
    lines.end();
  };
  void follow();
  return lines;
}
