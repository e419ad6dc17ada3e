/** Whether a loss of power may have taken writes that were answered and not flushed. Pure. */
import type { FrameLogRecovery } from "../../journal/frame-log.ts";
import type { AgentGroupState } from "./state.ts";

/** False where the operator has accepted the same loss already. `bootId`: of the boot that the host is in now. */
export function mayHaveLostUnflushed(
  { sameBoot, cleanShutdown }: Pick<FrameLogRecovery, "sameBoot" | "cleanShutdown">,
  durability: "flush" | "write",
  { unflushedAcceptedIn }: Pick<AgentGroupState, "unflushedAcceptedIn">,
  bootId: string,
): boolean {
  const lostPower = !sameBoot && !cleanShutdown;
  return lostPower && durability === "flush" && unflushedAcceptedIn !== bootId;
}
