/**
 * The digest of the point at which a verify came to its end, made in the background because nobody has to wait for it. Reads
 * through views only, at the pace of a scan; one at a time. It never decides whether a verify was clean: it is asked, or not.
 */
import type { Sequence } from "../protocol/ids.ts";
import type { PointDigest } from "../protocol/point-digest.ts";
import { errorCode, errorText } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import type { AppliedPosition } from "./marker.ts";

export interface DigestProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface VerifyDigestGround {
  /** The oldest point at or behind `sequence` that can be opened. */
  pointFrom(sequence: Sequence): Promise<AppliedPosition | undefined>;
  /** Known already, or made: durable when it settles. */
  make(
    point: AppliedPosition,
    onProgress: (doneBytes: number, totalBytes: number) => void,
  ): Promise<PointDigest>;
  readonly log: Log;
}

export class VerifyDigest {
  readonly #ground: VerifyDigestGround;
  #running: DigestProgress | undefined;
  /** The end for which it was made, or cannot be made: it is asked for until it is told so, and not tried for ever. */
  #over: Sequence | undefined;

  constructor(ground: VerifyDigestGround) {
    this.#ground = ground;
  }

  /** Begins it unless it is there or under way. Null: there is nothing to wait for. */
  async ask(end: Sequence): Promise<DigestProgress | null> {
    if (this.#running !== undefined) return this.#running;
    if (this.#over === end) return null;
    const point = await this.#ground.pointFrom(end);
    // Asked twice at once, or nothing that old can be opened any more.
    if (this.#running !== undefined) return this.#running;
    if (point === undefined) return null;
    this.#running = { doneBytes: 0, totalBytes: 0 };
    void this.#make(end, point);
    return this.#running;
  }

  async #make(end: Sequence, point: AppliedPosition): Promise<void> {
    const { log } = this.#ground;
    try {
      const { digest } = await this.#ground.make(point, (doneBytes, totalBytes) => {
        this.#running = { doneBytes, totalBytes };
      });
      log.info(
        "POINT_DIGESTED",
        `the digest of point ${point.sequence} follows a verify without a difference`,
        {
          sequence: point.sequence,
          digest,
        },
      );
      this.#over = end;
    } catch (error) {
      // Closed in the midst of it: whoever asks after the next opening begins it anew.
      if (errorCode(error) !== "POINT_CLOSED") this.#over = end;
      log.warn("POINT_NOT_DIGESTED", `no digest of point ${point.sequence}: ${errorText(error)}`, {
        reason: errorCode(error),
      });
    }
    this.#running = undefined;
  }
}
