/**
 * Times of day and week; the only importer of node-cron. Expressions have five fields or are an `@` nickname, always UTC,
 * so that no change to or from summer time skips or doubles a switch. A run never overlaps itself, and an error in one is
 * logged, never thrown. Missed times are not caught up; `mostRecent` tells at start what would be in force.
 */
import nodeCron from "node-cron";
import type { Log } from "./log.ts";
import { silentLog } from "./log.ts";

/** `mostRecent` looks back this many days: a week, so that every weekly switch is found, and the day begun. */
export const cronLookBackDays = 8;
const dayMs = 24 * 60 * 60 * 1000;

export interface CronTask {
  stop(): void;
  /** The next `count` times, soonest first. */
  next(count: number): Date[];
}

/** What a shell needs of this module; tests put their own in its place. */
export interface Cron {
  schedule(
    expression: string,
    options: { readonly timezone: "UTC" },
    run: () => void | Promise<void>,
  ): CronTask;
  mostRecent(expression: string, before: Date): Date | undefined;
}

let ownLog: Log = silentLog;
let loggerSet = false;

/** node-cron prints coloured lines of its own; they go into our log instead. */
function redirectLogger(): void {
  if (loggerSet) return;
  loggerSet = true;
  nodeCron.setLogger({
    info: (message) => ownLog.debug("CRON", message),
    warn: (message) => ownLog.warn("CRON", message),
    error: (message, error) => ownLog.error("CRON", String(message), error),
    debug: (message) => ownLog.debug("CRON", String(message)),
  });
}

/** True for five fields or an `@` nickname that node-cron understands; six fields (seconds) are refused. */
export function validate(expression: string): boolean {
  const text = expression.trim();
  if (text !== expression || (!text.startsWith("@") && text.split(/\s+/).length !== 5)) return false;
  redirectLogger();
  return nodeCron.validate(text);
}

/**
 * Calls `run` at each time of `expression`. Still running at the next time: that one is left out and logged. The timer
 * does not keep the process alive.
 */
export function schedule(
  expression: string,
  options: { readonly timezone: "UTC" },
  run: () => void | Promise<void>,
  log: Log = silentLog,
): CronTask {
  redirectLogger();
  if (log !== silentLog) ownLog = log;
  const task = nodeCron.schedule(
    expression,
    async () => {
      try {
        await run();
      } catch (error) {
        log.error("CRON_RUN_FAILED", `the run at ${expression} failed`, error);
      }
    },
    { timezone: options.timezone, noOverlap: true, unref: true },
  );
  task.on("execution:overlap", () =>
    log.warn("CRON_OVERLAP", `the run at ${expression} was left out: the last one goes on`),
  );
  return {
    stop() {
      const stopped = task.destroy();
      if (stopped instanceof Promise)
        stopped.catch((error: unknown) => log.error("CRON_STOP_FAILED", expression, error));
    },
    next: (count) => task.getNextRuns(count),
  };
}

/** Newest time of `expression` at or before `before`, at most 8 days back; undefined when there is none. */
export function mostRecent(expression: string, before: Date): Date | undefined {
  redirectLogger();
  const fields = nodeCron.parse(expression);
  const task = nodeCron.createTask(expression, () => undefined, { timezone: "UTC" });
  try {
    const today = Math.floor(before.getTime() / dayMs) * dayMs;
    const minutes = fields.hour
      .flatMap((hour) => fields.minute.map((minute) => hour * 60 + minute))
      .sort((a, b) => b - a);
    const first = minutes[0];
    if (first === undefined) return undefined;
    for (let day = 0; day <= cronLookBackDays; day += 1) {
      const start = today - day * dayMs;
      // Hours and minutes repeat every day, so one question tells whether the day is in the expression at all.
      if (!task.match(new Date(start + first * 60_000))) continue;
      const minute = minutes.find((candidate) => start + candidate * 60_000 <= before.getTime());
      if (minute !== undefined) return new Date(start + minute * 60_000);
    }
    return undefined;
  } finally {
    const destroyed = task.destroy();
    if (destroyed instanceof Promise)
      destroyed.catch((error: unknown) => ownLog.error("CRON_STOP_FAILED", expression, error));
  }
}

/** The real thing; what happens to its runs goes to `log`. */
export function systemCron(log: Log): Cron {
  return { mostRecent, schedule: (expression, options, run) => schedule(expression, options, run, log) };
}
