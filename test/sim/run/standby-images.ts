/**
 * Holds the bytes of a standby's images against the model: all of them, those that no gap touches, and what a loss of power has
 * left. Reads the simulated disk and nothing of the product.
 */
import { gatewayGroupPaths } from "../../../runtime/paths.ts";
import { requireElsewhereExact, requireExact, requireWithin } from "../model/content.ts";
import type { History, VolumeBytes } from "../model/history.ts";
import { modelSectorBytes } from "../model/history.ts";
import type { InvariantId } from "../model/violation.ts";
import { require } from "../model/violation.ts";
import type { SimSite } from "./sites.ts";
import type { GroupTruth } from "./truth.ts";

/** What is compared: the standby of `truth` on `machine`, against its owner's history. */
export interface ImagesQuestion {
  readonly truth: GroupTruth;
  readonly history: History;
  readonly machine: SimSite;
  readonly seed: number;
}

/** The volumes whose content must be there with everything up to `applied` received. */
export function wholeVolumes({ truth, history }: ImagesQuestion, applied: number): VolumeBytes[] {
  return history
    .volumes(applied)
    .filter(({ volume }) => truth.received.wholeFrom(history, volume, applied) !== undefined);
}

/** An image may be longer than its volume is at that moment: where more of it was received, or it was carried there. */
function bytesOf(
  { truth, machine }: ImagesQuestion,
  { volume, sizeBytes }: VolumeBytes,
  invariant: InvariantId,
): Uint8Array {
  const name = truth.volumes.nameOf(volume);
  const path = gatewayGroupPaths(machine.dataDir, truth.settings.name).image(name);
  const bytes = machine.disk.contentOf(path, "cached");
  require(invariant, bytes !== undefined && bytes.byteLength >= sizeBytes, () =>
    `${truth.standby.name}: the image of ${name} has ${bytes?.byteLength ?? "no"} bytes of ${sizeBytes}`);
  return bytes!.subarray(0, sizeBytes);
}

/** Every byte of what is whole, at `applied`; `repaired`: none of them may have decayed. */
export function compareImages(question: ImagesQuestion, applied: number, repaired: boolean): void {
  const { truth, history, seed } = question;
  require("I4", applied <= history.last, () => `${truth.standby.name} applied ${applied} of ${history.last}`);
  for (const row of wholeVolumes(question, applied))
    requireExact({
      ...{ what: truth.standby.name, invariant: "I2", history, volume: row.volume, seed },
      ...{ bytes: bytesOf(question, row, "I2"), sequence: applied },
      rot: repaired ? undefined : truth.rot,
    });
}

/** Images that lack entries differ only where those entries wrote. */
export function compareImagesInPart(question: ImagesQuestion, applied: number): void {
  const { truth, history, seed } = question;
  const { received, rot, standby } = truth;
  const gaps = received.lacking(history, applied);
  for (const row of wholeVolumes(question, applied)) {
    const { volume } = row;
    requireElsewhereExact(
      {
        ...{ what: standby.name, invariant: "I2", history, volume, seed, rot },
        ...{ bytes: bytesOf(question, row, "I2"), sequence: applied },
      },
      (sector) =>
        gaps.some(({ first, last }) =>
          history.touchedBetween(first - 1, last, volume, sector * modelSectorBytes, modelSectorBytes),
        ),
    );
  }
}

/** Of what was called applied, a loss of power has taken nothing (I4). */
export function compareImagesAfterPowerLoss(question: ImagesQuestion): void {
  const { truth, history, seed } = question;
  const { appliedMax, name } = truth.standby;
  for (const row of wholeVolumes(question, appliedMax))
    requireWithin({
      ...{ what: `${name} after a loss of power`, invariant: "I4", history, volume: row.volume, seed },
      ...{ offset: 0, bytes: bytesOf(question, row, "I4"), first: appliedMax, last: history.last },
      rot: truth.rot,
    });
}
