/** The product's clock and randomness over virtual time and the run's one generator. */
import type { Clock } from "../../../runtime/clock.ts";
import type { Random } from "../../../runtime/random.ts";
import type { Life } from "./life.ts";
import type { Scheduler } from "./scheduler.ts";

/** Wall time at the start of every run: 2026-01-01 UTC. */
const wallStartMs = 1_767_225_600_000;

/** Wall clock of a machine: may be changed while it runs, as an operator or NTP does. */
export interface WallOffset {
  offsetMs?: number;
}

/** What the wall clock of a machine shows now. */
export function wallMsOf(scheduler: Scheduler, wall: WallOffset): number {
  return Math.floor(wallStartMs + scheduler.nowMs + (wall.offsetMs ?? 0));
}

/** Timers end with `life`. `wall.offsetMs` is read at every call. */
export function clockOf(scheduler: Scheduler, life: Life, wall: WallOffset = {}): Clock {
  return {
    monotonicMs: () => scheduler.nowMs,
    wallMs: () => wallMsOf(scheduler, wall),
    after: (delayMs, run) => scheduler.at(delayMs, `${life.name} timer`, run, life),
  };
}

/** Draws from the run's generator. */
export function randomOf(scheduler: Scheduler): Random {
  return {
    fraction: () => scheduler.random.fraction(),
    uuidBytes() {
      const bytes = new Uint8Array(16);
      for (let at = 0; at < 16; at += 1) bytes[at] = scheduler.random.below(256);
      bytes[6] = (bytes[6]! & 0x0f) | 0x40;
      bytes[8] = (bytes[8]! & 0x3f) | 0x80;
      return bytes;
    },
  };
}
