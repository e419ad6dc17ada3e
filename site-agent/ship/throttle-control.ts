/**
 * Which limit is in force on a link: the operator's override while it lasts, else the window whose time came last, else
 * the configuration. It sets the throttle and never asks anybody; a window from more than 8 days ago counts as none.
 */
import { strict as assert } from "node:assert";
import type { ThrottleOverride, ThrottleStatus } from "../../protocol/admin.ts";
import type { Clock, Timer } from "../../runtime/clock.ts";
import { rfc3339 } from "../../runtime/clock.ts";
import type { Cron, CronTask } from "../../runtime/cron.ts";
import type { Log } from "../../runtime/log.ts";
import type { LinkSettings } from "../../runtime/settings/types.ts";
import type { WanThrottle } from "./wan-throttle.ts";

/** Switches told in advance. */
const nextSwitchesMax = 5;
/** Longest delay of one timer, ms; a longer override is reached in steps (Node's timers end at 2^31). */
const timerMsMax = 24 * 60 * 60 * 1000;

export interface ThrottleControlOptions {
  readonly throttle: WanThrottle;
  readonly settings: Pick<LinkSettings, "limitBytesPerSecond" | "windows">;
  readonly clock: Clock;
  readonly cron: Cron;
  readonly log: Log;
}

export class ThrottleControl {
  readonly #options: ThrottleControlOptions;
  readonly #tasks: { readonly task: CronTask; readonly limitBytesPerSecond: number | null }[] = [];
  #window: { readonly limitBytesPerSecond: number | null } | undefined;
  #override:
    | {
        readonly limitBytesPerSecond: number | null;
        readonly endsAtMonotonicMs: number | null;
        readonly untilWallMs: number | null;
      }
    | undefined;
  #timer: Timer | undefined;

  constructor(options: ThrottleControlOptions) {
    this.#options = options;
    this.#window = windowInForce(options);
    for (const { cron, limitBytesPerSecond } of options.settings.windows) {
      const task = options.cron.schedule(cron, { timezone: "UTC" }, () => {
        this.#window = { limitBytesPerSecond };
        this.#set("window");
      });
      this.#tasks.push({ task, limitBytesPerSecond });
    }
    this.#set("start");
  }

  /** For the line itself; nobody else sets its limit. */
  get throttle(): WanThrottle {
    return this.#options.throttle;
  }

  /** A duration of null holds until cleared or restarted. */
  setOverride(override: ThrottleOverride): void {
    const { clock } = this.#options;
    assert(override.limitBytesPerSecond === null || override.limitBytesPerSecond > 0, "a limit is positive");
    assert(override.durationMs === null || override.durationMs > 0, "a duration is positive");
    this.#override = {
      limitBytesPerSecond: override.limitBytesPerSecond,
      endsAtMonotonicMs: override.durationMs === null ? null : clock.monotonicMs() + override.durationMs,
      untilWallMs: override.durationMs === null ? null : clock.wallMs() + override.durationMs,
    };
    this.#armEnd();
    this.#set("override");
  }

  clearOverride(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#override = undefined;
    this.#set("cleared");
  }

  status(): ThrottleStatus {
    const next = this.#tasks
      .flatMap(({ task, limitBytesPerSecond }) =>
        task.next(nextSwitchesMax).map((at) => ({ at: at.getTime(), limitBytesPerSecond })),
      )
      .sort((a, b) => a.at - b.at)
      .slice(0, nextSwitchesMax)
      .map(({ at, limitBytesPerSecond }) => ({ at: rfc3339(at), limitBytesPerSecond }));
    const until = this.#override?.untilWallMs ?? null;
    return {
      limitBytesPerSecond: this.#limit(),
      source: this.#override !== undefined ? "override" : this.#window !== undefined ? "window" : "config",
      until: until === null ? null : rfc3339(until),
      next,
    };
  }

  close(): void {
    this.#timer?.cancel();
    for (const { task } of this.#tasks) task.stop();
    this.#options.throttle.close();
  }

  #limit(): number | null {
    return (this.#override ?? this.#window ?? this.#options.settings).limitBytesPerSecond;
  }

  #set(why: "start" | "window" | "override" | "cleared" | "ended"): void {
    const limit = this.#limit();
    this.#options.throttle.setLimit(limit);
    this.#options.log.info(
      "THROTTLE_SET",
      limit === null ? "the line is not limited" : `the line is limited to ${limit} bytes/s`,
      { why, limitBytesPerSecond: limit },
    );
  }

  #armEnd(): void {
    const { clock } = this.#options;
    this.#timer?.cancel();
    this.#timer = undefined;
    const endsAtMs = this.#override?.endsAtMonotonicMs ?? null;
    if (endsAtMs === null) return;
    const leftMs = endsAtMs - clock.monotonicMs();
    if (leftMs <= 0) {
      this.#override = undefined;
      this.#set("ended");
      return;
    }
    this.#timer = clock.after(Math.min(leftMs, timerMsMax), () => this.#armEnd());
  }
}

/** The window that switched last, if that was within the days that cron looks back. */
function windowInForce({ settings, cron, clock }: ThrottleControlOptions) {
  const now = new Date(clock.wallMs());
  let newest: { readonly at: number; readonly limitBytesPerSecond: number | null } | undefined;
  for (const window of settings.windows) {
    const at = cron.mostRecent(window.cron, now)?.getTime();
    // At the same minute the later entry of the file wins, as it does when both switch.
    if (at !== undefined && (newest === undefined || at >= newest.at))
      newest = { at, limitBytesPerSecond: window.limitBytesPerSecond };
  }
  return newest;
}
