/**
 * Opens a standby's images and proves that they belong to the intake log: the applied position lies inside the log
 * and has the log's chain value. Never applies, repairs or makes anything.
 */
import type { GroupImage } from "../../image/group-image.ts";
import type { AppliedPosition } from "../../image/marker.ts";
import type { ImageFile, OpenImageFilesOptions } from "../../image/open-files.ts";
import { openImageFiles } from "../../image/open-files.ts";
import type { FrameLog } from "../../journal/frame-log.ts";
import type { ChainPosition, LineageBytes } from "../../protocol/ids.ts";
import { bytesEqual } from "../../protocol/ids.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { StandbyStorage } from "../storage.ts";

export interface OpenImageInput {
  readonly storage: StandbyStorage;
  readonly volumes: readonly ImageFile[];
  readonly markerPath: string;
  readonly lineage: LineageBytes;
  readonly mode: "create" | "open";
  /** Genesis; only used by `create`. */
  readonly origin: AppliedPosition;
  readonly log: Log;
  readonly openHistory: OpenImageFilesOptions["openHistory"];
}

/** Opens (`create`: makes sparse) every image and the marker. On failure nothing stays open. */
export function openImage(input: OpenImageInput): Promise<GroupImage> {
  const { disk, images } = input.storage;
  return openImageFiles({
    ...input,
    disk,
    images,
    createImages: input.mode === "create" ? "sparse" : "never",
  });
}

/**
 * `sealed`: images that were taken back to the end of a hand-over hold exactly that, and the intake may begin behind it.
 * OperationalError `IMAGE_TORN`, `IMAGE_BEHIND_INTAKE`, `IMAGE_AHEAD_OF_INTAKE` or `IMAGE_DIVERGED`, all `stop`.
 */
export async function verifyAgainstIntake(
  image: GroupImage,
  intake: FrameLog,
  sealed: ChainPosition | undefined,
): Promise<void> {
  const { applied, applyingLast } = image;
  const isTakenBack = sealed?.sequence === applied.sequence && applyingLast === applied.sequence;
  if (isTakenBack && bytesEqual(sealed.chain, applied.chain)) return;
  const stop = (code: string, message: string): never => {
    throw new OperationalError({
      code,
      message,
      reaction: "stop",
      hint: "Images, marker and intake of this group are not of one instant; restore all of them together or make the standby anew.",
      details: {
        applied: applied.sequence,
        applyingLast,
        head: intake.head.sequence,
        tail: intake.tail.sequence,
      },
    });
  };
  if (applied.sequence < intake.head.sequence)
    stop("IMAGE_BEHIND_INTAKE", "records between the images and the intake are gone");
  if (applied.sequence > intake.tail.sequence)
    stop("IMAGE_AHEAD_OF_INTAKE", "the images hold records that the intake lost");
  // Part of these records may be in the images, and they cannot be applied whole any more: no point is left.
  if (applyingLast > intake.tail.sequence)
    stop("IMAGE_TORN", "an apply step was cut short and its records are lost");
  const chain = await intake.chainAt(applied.sequence);
  if (chain === undefined || !bytesEqual(chain, applied.chain))
    stop("IMAGE_DIVERGED", "images and intake hold different histories");
}
