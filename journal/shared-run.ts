/**
 * Work that covers everything before it, such as a sync: never twice at once, and who asks while it is under way shares
 * the next one, since the one under way may have begun too early for him.
 */
export class SharedRun<T> {
  readonly #run: () => Promise<T>;
  #current: Promise<T> | undefined;
  /** Starts when the one under way ends. */
  #next: Promise<T> | undefined;

  constructor(run: () => Promise<T>) {
    this.#run = run;
  }

  /** Settles, or rejects, as a run that begins after this call does. */
  request(): Promise<T> {
    if (this.#current === undefined && this.#next === undefined) return this.#start();
    if (this.#next === undefined) {
      const next = (): Promise<T> => {
        this.#next = undefined;
        return this.#start();
      };
      this.#next = (this.#current ?? Promise.resolve()).then(next, next);
    }
    return this.#next;
  }

  #start(): Promise<T> {
    const running = this.#run();
    this.#current = running;
    const ended = (): void => {
      this.#current = undefined;
    };
    running.then(ended, ended);
    return running;
  }

  /** Settles when nothing is under way; what came of it belongs to who asked. */
  async settled(): Promise<void> {
    while (this.#current !== undefined || this.#next !== undefined) {
      await Promise.allSettled([this.#current, this.#next]);
    }
  }
}
