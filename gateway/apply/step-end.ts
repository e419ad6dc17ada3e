/**
 * The ends of apply steps: sync of the images, marker, and the trim of the intake, each beside what the next step does. At
 * most one end and one trim are under way, in the order of the steps. It never moves the marker before the images are
 * synced, never trims before the marker, and tells the first failure to whoever asks next, for good.
 */
import type { GroupImage } from "../../image/group-image.ts";
import type { FrameLog } from "../../journal/frame-log.ts";
import type { Sequence } from "../../protocol/ids.ts";
import { fromIntake } from "./intake-failure.ts";

export interface StepEndOptions {
  readonly image: GroupImage;
  readonly intake: FrameLog;
  /** The marker says what the images hold; before the intake is trimmed. */
  readonly onCommitted: () => void;
  /** Behind the marker, and behind the trim of the step before. */
  readonly onEnded: () => Promise<void> | undefined;
}

export class StepEnds {
  readonly #options: StepEndOptions;
  /** Neither of them rejects. */
  #ending: Promise<void> = Promise.resolve();
  #trimming: Promise<void> = Promise.resolve();
  #isDue = false;
  #failure: { readonly error: unknown } | undefined;

  constructor(options: StepEndOptions) {
    this.#options = options;
  }

  /** The images hold one step more, whose end has to come. */
  applied(): void {
    this.#isDue = true;
  }

  /** The marker of the step before the newest is durable: another one may be declared. Rejects with the first failure. */
  async committed(): Promise<void> {
    await this.#ending;
    this.#admit();
  }

  /** Begins the end of the newest step, unless it has; behind `committed`, and before the next step changes the images. */
  begin(): void {
    if (!this.#isDue) return;
    this.#isDue = false;
    this.#ending = this.#noting(this.#end());
  }

  async #end(): Promise<void> {
    const { image, onCommitted, onEnded } = this.#options;
    // Survives power loss before the marker says so.
    const position = await image.sync();
    // Survives power loss before the intake gives these records up.
    await image.commit(position);
    onCommitted();
    // The trim of the step before, or of none: one that is slow holds apply back here, and the intake is never far behind.
    await this.#trimming;
    this.#admit();
    this.#trimming = this.#noting(this.#trim(image.applied.sequence));
    await onEnded();
  }

  async #trim(through: Sequence): Promise<void> {
    await fromIntake(this.#options.intake.trim(through));
  }

  async #noting(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      this.#failure ??= { error };
    }
  }

  /** Nothing is under way when it settles: marker and intake say what the images hold. Rejects with the first failure. */
  async settled(): Promise<void> {
    await this.committed();
    this.begin();
    await this.#ending;
    await this.#trimming;
    this.#admit();
  }

  #admit(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }
}
