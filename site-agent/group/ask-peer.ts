/** Asks the other site what it knows of a group, for as long as a start may wait. Decides nothing. */
import type { Clock, Timer } from "../../runtime/clock.ts";
import { errorCode, errorText } from "../../runtime/errors.ts";
import type { Log } from "../../runtime/log.ts";
import type { Line } from "../ship/line.ts";
import type { PeerAnswer } from "./start-decision.ts";

/** An owner with state asks the other site at most this long before it serves, ms: fences a returned old owner. */
const peerAskMs = 3_000;

export interface PeerWorld {
  /** Null: no line to the other site is configured. */
  readonly link: Line | null;
  readonly clock: Clock;
  readonly log: Log;
}

/** `late`: told of an answer that came when the start had gone on without it. */
export async function askPeer(
  group: string,
  { link, clock, log }: PeerWorld,
  late: (answer: PeerAnswer) => void,
): Promise<PeerAnswer> {
  if (link === null) return "unreachable";
  let timer: Timer | undefined;
  const patience = new Promise<"unreachable">((resolve) => {
    timer = clock.after(peerAskMs, () => resolve("unreachable"));
  });
  const answer = link.knowledge(group).catch((error: unknown) => {
    log.warn("PEER_UNREACHABLE", `the other site does not answer: ${errorText(error)}`, {
      reason: errorCode(error),
    });
    return "unreachable" as const;
  });
  const first = await Promise.race([answer, patience]);
  timer?.cancel();
  if (first === "unreachable") void answer.then(late);
  return first;
}
