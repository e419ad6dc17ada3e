/** Which volumes the standby has whole, in the owner's state: what its greetings and the ends of scans make of it. Pure. */
import type { Sequence, VolumeNumber } from "../../protocol/ids.ts";
import type { AgentGroupState } from "./state.ts";

/** The standby has what these volumes held when they were added, from `end` on. */
export function withWhole(
  state: AgentGroupState,
  numbers: readonly VolumeNumber[],
  end: Sequence,
): AgentGroupState {
  const volumes = state.volumes.map((volume) =>
    numbers.includes(volume.number) && volume.wholeFrom === null ? { ...volume, wholeFrom: end } : volume,
  );
  return { ...state, volumes };
}

/**
 * What the standby says that it has not whole, as after a gap that we know nothing of, has to be brought anew. Null: that is
 * no news, or nothing that this site would bring.
 */
export function withPartial(
  state: AgentGroupState,
  numbers: readonly VolumeNumber[],
): AgentGroupState | null {
  if (state.role !== "owner" || state.standby === null) return null;
  const isNews = ({ number, wholeFrom }: AgentGroupState["volumes"][number]): boolean =>
    numbers.includes(number) && wholeFrom !== null;
  if (!state.volumes.some(isNews)) return null;
  return {
    ...state,
    volumes: state.volumes.map((volume) => (isNews(volume) ? { ...volume, wholeFrom: null } : volume)),
  };
}
