/**
 * What a history must not forget, beside its before-images: where it begins, which points are pinned, and an order to
 * take the images back that is under way. One durable document, replaced whole; owns its form. Never judges whether a
 * pinned point can still be opened.
 */
import type { Sequence } from "../../protocol/ids.ts";
import type { Disk } from "../../runtime/disk.ts";
import { readDocument, writeDocument } from "../../runtime/durable-document.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { AppliedPosition } from "../marker.ts";

/** A person or a task of a person makes each one, and each keeps disk space: far more than anybody looks after. */
export const pinsMax = 64;
const idPattern = /^[a-zA-Z0-9._-]{1,64}$/;
const reasonCharactersMax = 256;

/** A durable order to keep what opening one point needs. */
export interface Pin {
  readonly id: string;
  readonly sequence: Sequence;
  /** Chain value at `sequence`, hex: which history the point is of. */
  readonly chain: string;
  readonly reason: string;
  /** When it was pinned. */
  readonly timeMs: number;
}

interface Content {
  /** The oldest point; undefined when no history is kept. */
  readonly begin: AppliedPosition | undefined;
  /** The images are being taken back to this point. */
  readonly rollBack: AppliedPosition | undefined;
  readonly pins: readonly Pin[];
}

export class Pins {
  readonly #disk: Disk;
  readonly #path: string;
  #content: Content;

  private constructor(disk: Disk, path: string, content: Content) {
    this.#disk = disk;
    this.#path = path;
    this.#content = content;
  }

  /** OperationalErrors of `readDocument`: damage is never taken for "nothing is pinned". */
  static async open(disk: Disk, path: string): Promise<Pins> {
    const found = await readDocument(disk, path, parseContent);
    return new Pins(disk, path, found ?? { begin: undefined, rollBack: undefined, pins: [] });
  }

  get begin(): AppliedPosition | undefined {
    return this.#content.begin;
  }

  get rollBack(): AppliedPosition | undefined {
    return this.#content.rollBack;
  }

  get list(): readonly Pin[] {
    return this.#content.pins;
  }

  setBegin(begin: AppliedPosition | undefined): Promise<void> {
    return this.#write({ ...this.#content, begin });
  }

  setRollBack(rollBack: AppliedPosition | undefined): Promise<void> {
    return this.#write({ ...this.#content, rollBack });
  }

  /**
   * Adds a pin; the same one again is taken as done. OperationalError, reaction `refuse`: `PIN_EXISTS` (the id says
   * something else), `PINS_FULL`, `PIN_INVALID`.
   */
  async add(pin: Pin): Promise<void> {
    if (!idPattern.test(pin.id) || pin.reason.length > reasonCharactersMax) {
      throw refused(
        "PIN_INVALID",
        "an id has 1 to 64 letters, digits, . _ -, a reason at most 256 characters",
      );
    }
    const known = this.#content.pins.find(({ id }) => id === pin.id);
    if (known !== undefined) {
      if (known.sequence === pin.sequence && known.chain === pin.chain) return;
      throw refused("PIN_EXISTS", `the pin ${pin.id} holds the point ${known.sequence}`);
    }
    if (this.#content.pins.length >= pinsMax) throw refused("PINS_FULL", `there are ${pinsMax} pins already`);
    await this.#write({ ...this.#content, pins: [...this.#content.pins, pin] });
  }

  /** False when there is no such pin. */
  async remove(id: string): Promise<boolean> {
    const pins = this.#content.pins.filter((pin) => pin.id !== id);
    if (pins.length === this.#content.pins.length) return false;
    await this.#write({ ...this.#content, pins });
    return true;
  }

  /** Believed only when it is durable: power loss leaves the old document or the new one. */
  async #write(content: Content): Promise<void> {
    const { begin, rollBack, pins } = content;
    await writeDocument(this.#disk, this.#path, {
      version: 1,
      begin: begin === undefined ? null : plain(begin),
      rollBack: rollBack === undefined ? null : plain(rollBack),
      pins,
    });
    this.#content = content;
  }
}

function refused(code: string, message: string): OperationalError {
  return new OperationalError({ code, message, reaction: "refuse" });
}

function plain(position: AppliedPosition): Record<string, unknown> {
  return { ...position, chain: Buffer.from(position.chain).toString("hex") };
}

function parseContent(value: unknown): Content {
  const fields = objectOf(value);
  if (fields["version"] !== 1) throw new Error("version");
  const pins = fields["pins"];
  if (!Array.isArray(pins) || pins.length > pinsMax) throw new Error("pins");
  return {
    begin: fields["begin"] === null ? undefined : parsePosition(fields["begin"]),
    rollBack: fields["rollBack"] === null ? undefined : parsePosition(fields["rollBack"]),
    pins: pins.map(parsePin),
  };
}

function parsePosition(value: unknown): AppliedPosition {
  const { sequence, chain, dataBytesTotal, timeMs } = objectOf(value);
  return {
    sequence: wholeNumber(sequence),
    chain: new Uint8Array(Buffer.from(chainText(chain), "hex")),
    dataBytesTotal: wholeNumber(dataBytesTotal),
    timeMs: wholeNumber(timeMs),
  };
}

function parsePin(value: unknown): Pin {
  const { id, sequence, chain, reason, timeMs } = objectOf(value);
  if (typeof id !== "string" || typeof reason !== "string") throw new Error("pin");
  return {
    id,
    sequence: wholeNumber(sequence),
    chain: chainText(chain),
    reason,
    timeMs: wholeNumber(timeMs),
  };
}

function objectOf(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null) throw new Error("no object");
  return value as Record<string, unknown>;
}

function wholeNumber(value: unknown): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) throw new Error("number");
  return value;
}

function chainText(value: unknown): string {
  if (typeof value !== "string" || !/^[0-9a-f]{64}$/.test(value)) throw new Error("chain");
  return value;
}
