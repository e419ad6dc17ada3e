/**
 * Makes durable what a record of the write order makes of a standby's volume table (docs/volumes.md, "The standby"). The
 * order is the safety: image, document, and only then, elsewhere, the marker. Must never make an image at a path that
 * nobody has chosen: it would be the wrong one for good.
 */
import type { ImageFiles } from "../../block/image-files.ts";
import type { Sequence } from "../../protocol/ids.ts";
import type { VolumeChangeRecord } from "../../protocol/record.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { GatewayGroupPaths } from "../../runtime/paths.ts";
import type { GroupSettings } from "../../runtime/settings/types.ts";
import { heldImagePath } from "../create.ts";
import type { KeptDocument } from "../kept-document.ts";
import { makeImageOfChange } from "./image-of-change.ts";
import { decideChange, withVolume } from "./table.ts";

export interface TableWorld {
  readonly kept: KeptDocument;
  readonly images: ImageFiles;
  readonly paths: GatewayGroupPaths;
  /** With the volumes of the newest configuration. */
  readonly group: GroupSettings;
  readonly log: Log;
}

/** As in `ApplierOptions`. `VOLUME_CHANGE_REFUSED` (`stop`), `VOLUME_NOT_CONFIGURED` (`retry`), those of `makeImageOfChange`. */
export async function changeTable(
  { kept, images, paths, group, log }: TableWorld,
  record: VolumeChangeRecord,
  sequence: Sequence,
  requireGoing: () => void,
): Promise<boolean> {
  const document = kept.required;
  const change = decideChange(document.volumes, record, sequence);
  if (change.kind === "nothing") return false;
  if (change.kind === "refused") {
    throw new OperationalError({
      code: "VOLUME_CHANGE_REFUSED",
      message: `the change of the volume table at ${sequence} contradicts what is held: ${change.message}`,
      reaction: "stop",
      details: { sequence },
    });
  }
  const { name, sizeBytes } = change.volume;
  if (change.kind === "added") requireConfigured(group, name, sizeBytes);
  const imagePath = heldImagePath(document, change.volume, group, paths);
  // Survives power loss before the document says that it is there; done again where a crash comes between.
  await makeImageOfChange(change, { images, path: imagePath, requireGoing });
  // Survives a crash before the marker passes the record: it is met again then, and says nothing new.
  await kept.change((now) => ({
    ...now,
    volumes: withVolume(now.volumes, { ...change.volume, imagePath }),
  }));
  log.info("VOLUME_CHANGED", `volume ${name} is ${change.kind}`, {
    ...{ volume: name, sequence, sizeBytes, wholeFrom: change.volume.wholeFrom },
  });
  return true;
}

function requireConfigured({ volumes }: GroupSettings, name: string, sizeBytes: number): void {
  const configured = volumes.find((each) => each.name === name);
  if (configured !== undefined && configured.sizeBytes >= sizeBytes) return;
  throw new OperationalError({
    code: "VOLUME_NOT_CONFIGURED",
    message: `volume ${name} of ${sizeBytes} bytes joins the group, and is not in this site's configuration so`,
    reaction: "retry",
    hint: "Give this site the owner's configuration and reload it; applying goes on by itself.",
  });
}
