/**
 * Makes durable what a step says of the images as a whole, and of volumes whose content is still to come, before the step
 * touches them (docs/scan.md, "Completeness"). Must never say that images are incomplete before the point that they hold is pinned.
 */
import type { Frame } from "../../protocol/frame.ts";
import type { Log } from "../../runtime/log.ts";
import type { KeptDocument } from "../kept-document.ts";
import { tableAfterContent } from "../volumes/table.ts";
import { afterFrames, isOpenable, sameCompleteness } from "./completeness.ts";

/** As `beforeStep` of `ApplierOptions`. */
export async function declareContent(
  kept: KeptDocument,
  frames: readonly Frame[],
  pin: () => Promise<void>,
  log: Log,
): Promise<void> {
  const { incomplete: before, volumes: tableBefore } = kept.required;
  const incomplete = afterFrames(before, frames);
  const volumes = tableAfterContent(tableBefore, frames);
  if (sameCompleteness(before, incomplete) && volumes === tableBefore) return;
  // Survives a crash before the document says that it is needed: then there is a pin too many, which is given back.
  if (isOpenable(before, frames[0]!.first - 1) && incomplete?.until === null) await pin();
  // Survives a crash before the step that makes it true touches the images: until then it and the old one both hold.
  await kept.change((now) => ({ ...now, incomplete, volumes }));
  log.info("COMPLETENESS", incomplete === null ? "complete" : "a scan has begun or is over", {
    ...incomplete,
  });
}
