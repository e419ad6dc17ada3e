/**
 * Makes a standby from nothing, on disk: document, images, marker, intake, and the document again as the last step.
 * Until that last step nothing was answered to anybody, so a crash in between is simply begun again. It never touches
 * an image that holds data, nor anything whose document does not say that it was being made. Images that were carried
 * here are taken over as they are, where the owner's held data at their beginning too: a first sync has to come.
 */
import { dirname } from "node:path";
import type { AppliedPosition } from "../image/marker.ts";
import { openFrameLog } from "../journal/open.ts";
import type { Hello } from "../protocol/control.ts";
import type { VolumeEntry } from "../protocol/ids.ts";
import { bytesFromHex, lineageFromText } from "../protocol/ids.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import { foundingVolume } from "../protocol/table-volume.ts";
import type { Clock } from "../runtime/clock.ts";
import { syncDirectory, syncNamesOf } from "../runtime/disk.ts";
import { writeDocument } from "../runtime/durable-document.ts";
import { OperationalError } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import type { GatewayGroupPaths } from "../runtime/paths.ts";
import type { GroupSettings } from "../runtime/settings/types.ts";
import { openImage } from "./apply/open-image.ts";
import type { IntakeLimits } from "./intake-options.ts";
import { intakeOptions } from "./intake-options.ts";
import { incompleteFromStart } from "./scan/completeness.ts";
import type { StandbyDocument } from "./state.ts";
import type { StandbyStorage } from "./storage.ts";

export interface CreateInput {
  readonly group: GroupSettings;
  readonly paths: GatewayGroupPaths;
  readonly hello: Hello;
  readonly limits: IntakeLimits;
  /** A document in phase `creating` from an attempt that a crash ended. */
  readonly unfinished: StandbyDocument | undefined;
  readonly storage: StandbyStorage;
  readonly clock: Clock;
  readonly log: Log;
}

/** Where this site keeps a volume of `owner`'s: as configured for who stands by, else in the group's folder. */
export function imagePathOf(
  group: GroupSettings,
  owner: string,
  volume: string,
  paths: GatewayGroupPaths,
): string {
  const settings = group.volumes.find((each) => each.name === volume);
  const configured = group.home === owner ? settings?.standbyImage : settings?.image;
  return configured ?? paths.image(volume);
}

/** Where the image of a volume of `document` lies, or will. */
export function heldImagePath(
  document: StandbyDocument,
  { number, name }: Pick<VolumeEntry, "number" | "name">,
  group: GroupSettings,
  paths: GatewayGroupPaths,
): string {
  const held = document.volumes.find((each) => each.number === number);
  return held?.imagePath ?? imagePathOf(group, document.token.owner, name, paths);
}

/** The document of the finished standby, durable. OperationalError `IMAGE_HOLDS_DATA`, `STANDBY_LEFTOVERS` and those of the parts. */
export async function createStandby(input: CreateInput): Promise<StandbyDocument> {
  const { group, paths, hello, storage, clock, log } = input;
  const { disk, images, bootId } = storage;
  const lineage = lineageFromText(hello.lineage);
  const genesis = bytesFromHex(hello.genesis);
  if (lineage === undefined || genesis === undefined)
    throw new RemoteProtocolError("CONTROL_MALFORMED", "lineage or genesis");
  const volumes = hello.volumes.map((volume) => {
    const founding = (hello.founding ?? hello.volumes).find((each) => each.number === volume.number);
    // Made with the table as it is now: the changes that are still to come say nothing new.
    const row = { ...foundingVolume(volume), foundingBytes: founding?.sizeBytes ?? null };
    return { ...row, imagePath: imagePathOf(group, hello.token.owner, volume.name, paths) };
  });
  const files = [paths.intake, paths.intakeWatermark, paths.marker, paths.history];
  let seeded = false;
  for (const { imagePath, sizeBytes, name } of volumes) {
    if (!(await images.holdsData(imagePath, sizeBytes))) continue;
    if (hello.initial === "data") {
      seeded = true;
      continue;
    }
    throw new OperationalError({
      code: "IMAGE_HOLDS_DATA",
      message: `the image of volume ${name} at ${imagePath} already holds data`,
      reaction: "refuse",
      hint: "A standby starts from empty images; move this one away or choose another path.",
    });
  }
  if (input.unfinished === undefined && files.some((path) => disk.exists(path))) {
    throw new OperationalError({
      code: "STANDBY_LEFTOVERS",
      message: `there are files of a standby in ${paths.directory}, but no document that says which`,
      reaction: "refuse",
      hint: "Restore the document, or move the folder away if the standby is to be made anew.",
    });
  }
  await disk.makeDirectory(dirname(paths.image("any")));
  const document: StandbyDocument = {
    version: 1,
    group: group.name,
    lineage: hello.lineage,
    token: hello.token,
    genesis: hello.genesis,
    volumes,
    phase: "creating",
    failover: null,
    retired: null,
    // Without data at the owner's beginning both sides begin with zeroes, and the history alone is the whole content.
    incomplete:
      hello.initial === "data"
        ? incompleteFromStart(seeded ? "unknown" : "empty", hello.durable.sequence)
        : null,
  };
  // Survives a crash in any step below: what is found then is known to be half made and may be replaced.
  await writeDocument(disk, paths.state, document);
  await syncNamesOf(disk, paths.directory);
  for (const leftover of files) await disk.remove(leftover);
  const origin: AppliedPosition = { sequence: 0, chain: genesis, dataBytesTotal: 0, timeMs: 0 };
  const image = await openImage({
    storage,
    volumes,
    markerPath: paths.marker,
    lineage,
    mode: "create",
    origin,
    log,
    // There is no past yet; it begins when the standby is first opened.
    openHistory: undefined,
  });
  // What was carried here may still be in the page cache only. Once it was compared it counts as content, and from then
  // on it has to survive a loss of power like everything that was applied.
  if (seeded) for (const { number } of volumes) await image.device(number).flush();
  await image.close();
  const { log: intake } = await openFrameLog(
    intakeOptions(paths, document, input.limits, bootId, "create"),
    log,
    { ...storage, clock },
  );
  await intake.close("clean");
  await syncDirectory(disk, paths.directory);
  const standing: StandbyDocument = { ...document, phase: "standing" };
  // Survives everything: only now may the owner be told that it is attached.
  await writeDocument(disk, paths.state, standing);
  return standing;
}
