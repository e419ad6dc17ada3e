/**
 * A stop that interrupts waiting: whoever waits for something else is let go when it comes. Keeps nothing of a wait that is
 * over, so a scan of a million waits holds no more than one of ten. Pure but for the clock it is given.
 */
import type { Clock, Timer } from "../../runtime/clock.ts";

/** Why a wait ended without what it waited for. */
export const interrupted = Symbol("interrupted");

export class StopSignal {
  readonly #clock: Clock;
  readonly #waiting = new Set<() => void>();
  #stopped = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  stop(): void {
    this.#stopped = true;
    for (const release of [...this.#waiting]) release();
  }

  /** What `work` gives, or `interrupted` on a stop or after `withinMs`; the work itself goes on unheard then. */
  or<T>(work: Promise<T>, withinMs?: number): Promise<T | typeof interrupted> {
    return new Promise((resolve, reject) => {
      let timer: Timer | undefined;
      const end = () => {
        this.#waiting.delete(release);
        timer?.cancel();
      };
      const release = () => {
        end();
        resolve(interrupted);
      };
      this.#waiting.add(release);
      work.then(
        (value) => {
          end();
          resolve(value);
        },
        (error: unknown) => {
          end();
          reject(error);
        },
      );
      if (this.#stopped) release();
      else if (withinMs !== undefined) timer = this.#clock.after(withinMs, release);
    });
  }

  /** Waits; false when stopped meanwhile. */
  async after(delayMs: number): Promise<boolean> {
    const never = new Promise<never>(() => {});
    await this.or(never, delayMs);
    return !this.#stopped;
  }
}
