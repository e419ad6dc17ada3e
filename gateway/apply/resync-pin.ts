/**
 * The pin of the point before a standby's images became incomplete: what a failover opens until the scan that makes them
 * whole has ended. One around each open image. It holds one point at most, never moves it while it is needed, and says of
 * a point that it can be opened only where the history says so.
 */
import type { GroupImage } from "../../image/group-image.ts";
import type { AppliedPosition } from "../../image/marker.ts";
import type { Sequence } from "../../protocol/ids.ts";
import { bytesEqual, bytesFromHex } from "../../protocol/ids.ts";
import type { Clock } from "../../runtime/clock.ts";
import { errorText, OperationalError } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";

const pinId = "before-resync";

export class ResyncPin {
  readonly #image: GroupImage;
  readonly #clock: Clock;
  readonly #log: Log;
  #point: AppliedPosition | undefined;

  private constructor(image: GroupImage, clock: Clock, log: Log) {
    this.#image = image;
    this.#clock = clock;
    this.#log = log;
  }

  /** What is pinned in the history of images that were just opened. OperationalErrors of the history. */
  static async open(image: GroupImage, clock: Clock, log: Log): Promise<ResyncPin> {
    const pin = new ResyncPin(image, clock, log);
    await pin.#look();
    return pin;
  }

  /** The pinned point; undefined when there is none, or the images cannot be taken back to it any more. */
  get point(): AppliedPosition | undefined {
    const lacking = this.#image.history?.lacking ?? 0;
    return this.#point === undefined || lacking > this.#point.sequence ? undefined : this.#point;
  }

  get isSet(): boolean {
    return this.#found !== undefined;
  }

  get #found() {
    return this.#image.history?.pins.find(({ id }) => id === pinId);
  }

  async #look(): Promise<void> {
    const pin = this.#found;
    const point = pin === undefined ? undefined : await this.#image.history?.point(pin.sequence);
    const chain = pin === undefined ? undefined : bytesFromHex(pin.chain);
    const isOfPin = point !== undefined && chain !== undefined && bytesEqual(point.chain, chain);
    this.#point = isOfPin ? point : undefined;
    if (isOfPin) await this.#image.history?.findLacking(point.sequence);
  }

  /**
   * Pins what the images hold, which could be opened until now. Durable when it settles. Where that is no point of a
   * history nothing is pinned, and a failover has nothing to open until the scan has ended: that is logged.
   */
  async take(held: AppliedPosition): Promise<void> {
    const { history } = this.#image;
    // Left by a crash, or by a scan whose end was applied a moment ago.
    const before = this.#found;
    if (before !== undefined && before.sequence !== held.sequence) await this.giveBack();
    const reason = "the last point before frames were lost to this standby";
    try {
      await history?.pin({ id: pinId, sequence: held.sequence, reason }, held, this.#clock.wallMs());
    } catch (error) {
      if (!(error instanceof OperationalError) || error.reaction !== "refuse") throw error;
      this.#log.warn(
        "POINT_NOT_PINNED",
        `nothing can be opened until a resync has ended: ${errorText(error)}`,
        {
          sequence: held.sequence,
        },
      );
    }
    await this.#look();
  }

  async giveBack(): Promise<void> {
    this.#point = undefined;
    await this.#image.history?.unpin(pinId);
  }

  /** Before the images are taken back to `sequence`: nothing behind it is a point afterwards, whoever has pinned it. */
  async giveBackBehind(sequence: Sequence): Promise<void> {
    const { history } = this.#image;
    for (const pin of history?.pins.filter((each) => each.sequence > sequence) ?? []) {
      this.#log.error(
        "HISTORY_PIN_LOST",
        "a pinned point is lost: the images are taken back behind it",
        undefined,
        {
          pin: pin.id,
          sequence: pin.sequence,
        },
      );
      await history?.unpin(pin.id);
    }
  }
}
