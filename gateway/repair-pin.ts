/** Keeps the newest point before the owner's repair replaces what is held here; named by the verify, so once for each. */
import type { Past } from "../image/past.ts";
import type { Sequence } from "../protocol/ids.ts";
import type { StandbyPinAnswer } from "../protocol/standby-pin.ts";
import { errorCode } from "../runtime/errors.ts";

/** Points kept from before repairs, until an operator has looked at them: each may make the history longer. */
const repairPinsMax = 8;

/** `verify`: the begin of the verify whose differences are to be repaired. Rejects with the errors of `Past.pin`. */
export async function pinBeforeRepair(past: Past, verify: Sequence): Promise<StandbyPinAnswer> {
  const pins = past.status?.pins ?? [];
  const id = `repair-${verify}`;
  const known = pins.find((pin) => pin.id === id);
  if (known !== undefined) return { kind: "pinned", id, sequence: known.sequence };
  if (pins.filter((pin) => pin.id.startsWith("repair-")).length >= repairPinsMax) {
    const message = `${repairPinsMax} points from before repairs are pinned already; unpin them first`;
    return { kind: "refused", code: "PINS_FULL", message };
  }
  try {
    const { sequence } = await past.pin(() => id, { kind: "latest" }, "before a repair");
    return { kind: "pinned", id, sequence };
  } catch (error) {
    if (errorCode(error) === "POINTS_NONE") return { kind: "none" };
    throw error;
  }
}
