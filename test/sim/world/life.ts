/**
 * One incarnation of one role on one site: from its start to its kill. After `end` none of its operations settles and
 * none of its timers fires. Code of a dead incarnation may still run to its next await in the same instant, so who
 * records what an incarnation says asks `alive` first.
 */

export class Life {
  readonly name: string;
  /** Events that came due while it was paused, in order. Kept by the scheduler. */
  readonly held: (() => void)[] = [];
  #alive = true;
  #paused = false;

  constructor(name: string) {
    this.name = name;
  }

  get alive(): boolean {
    return this.#alive;
  }

  get paused(): boolean {
    return this.#paused;
  }

  /** kill -9. For the fate of its disk operations under way use `SimDisk.kill`, which calls this. */
  end(): void {
    this.#alive = false;
    this.held.length = 0;
  }

  /** SIGSTOP: its events wait. `Scheduler.resume` is the other half. */
  pause(): void {
    this.#paused = true;
  }

  /** Only for the scheduler: takes what was held back. */
  release(): (() => void)[] {
    this.#paused = false;
    return this.held.splice(0);
  }
}
