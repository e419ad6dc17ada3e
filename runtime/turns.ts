/**
 * Work of one owner, one piece after another in the order of asking. A piece that fails fails for who asked, and the next one
 * has its turn all the same. How many wait is for those who ask to bound. Never asks for a turn within a turn: that would
 * wait for itself.
 */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /** Settles, or rejects, as `work` does. */
  take<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(work);
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  /** Settles when every turn that was taken so far is over. */
  settled(): Promise<unknown> {
    return this.#last;
  }
}
