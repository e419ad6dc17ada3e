/** A step that a test holds back: whoever comes to a closed door waits until it is opened. Holds no time limit. */

/** Open at first. */
export class Door {
  #open = true;
  #waiting: (() => void)[] = [];

  close(): void {
    this.#open = false;
  }

  /** Those who wait go on, and so does everybody after them. */
  open(): void {
    this.#open = true;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  async pass(): Promise<void> {
    if (!this.#open) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}
