/** Waiting for the standby's word, for a while. Decides nothing; whoever moves the position says so. */
import type { Clock } from "../../runtime/clock.ts";

export class AcknowledgedWait {
  readonly #clock: Clock;
  /** One an order under way; orders of a group run one after another. */
  readonly #waiting = new Set<() => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** A position moved: whoever waits looks again. */
  moved(): void {
    for (const look of [...this.#waiting]) look();
  }

  /** Settles true as soon as `isThere`, and false when it is not within `patienceMs`. */
  until(isThere: () => boolean, patienceMs: number): Promise<boolean> {
    if (isThere()) return Promise.resolve(true);
    return new Promise((resolve) => {
      const settle = (there: boolean): void => {
        timer.cancel();
        this.#waiting.delete(look);
        resolve(there);
      };
      const look = (): void => {
        if (isThere()) settle(true);
      };
      const timer = this.#clock.after(patienceMs, () => settle(isThere()));
      this.#waiting.add(look);
    });
  }
}
