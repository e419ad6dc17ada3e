/**
 * The questions that a scan has for the other site's gateway, and what it makes of the replies. Believes nothing, decides
 * nothing. Each tells `superseded` of a newer token in its reply, for whoever asked may have ended meanwhile.
 */
import type { ScanAnswer, ScanAsk } from "../../protocol/control.ts";
import { parseScanAnswer, wanRoutes } from "../../protocol/control.ts";
import type { HistoryAsk, HistoryCheckAnswer } from "../../protocol/history-check.ts";
import { parseHistoryCheckAnswer } from "../../protocol/history-check.ts";
import type { Token } from "../../protocol/ids.ts";
import type { StandbyPinAnswer, StandbyPinAsk } from "../../protocol/standby-pin.ts";
import { parseStandbyPinAnswer } from "../../protocol/standby-pin.ts";
import type { Reason } from "../../protocol/status.ts";
import { errorCode, errorText, OperationalError } from "../../runtime/errors.ts";
import type { Line } from "../ship/line.ts";

/** What digests have shown. `PEER_REFUSED` (`retry`) for a reply that is no answer; errors of the line. */
export async function askFindings(
  link: Line,
  group: string,
  ask: ScanAsk,
  superseded: (token: Token) => void,
): Promise<ScanAnswer> {
  const reply = await link.control("POST", wanRoutes.scan(group), ask);
  try {
    return heeded(parseScanAnswer(reply.body), superseded);
  } catch (error) {
    if (reply.status === 200) throw error;
    throw new OperationalError({
      code: "PEER_REFUSED",
      message: `the other site answered ${reply.status} when it was asked for findings`,
      reaction: "retry",
      cause: error,
    });
  }
}

/** The check of the before-images there; `absent`: it knows no such question. Errors of the line. */
export async function askHistory(
  link: Line,
  group: string,
  ask: HistoryAsk,
  superseded: (token: Token) => void,
): Promise<HistoryCheckAnswer | "absent"> {
  const reply = await link.control("POST", wanRoutes.historyCheck(group), ask);
  return reply.status === 404 ? "absent" : heeded(parseHistoryCheckAnswer(reply.body), superseded);
}

/** Has kept what a repair replaces, where the standby keeps a history; else why it did not. `link` null: there is none. */
export async function askPin(
  link: Line | null,
  group: string,
  ask: StandbyPinAsk,
  superseded: (token: Token) => void,
): Promise<Reason | null> {
  if (link === null) return { code: "LINK_DOWN", message: "the standby cannot be asked" };
  try {
    const reply = await link.control("POST", wanRoutes.standbyPin(group), ask);
    const answer = heeded(parseStandbyPinAnswer(reply.body), superseded);
    if (answer.kind === "pinned" || answer.kind === "none") return null;
    if (answer.kind === "refused") return { code: answer.code, message: answer.message };
    return { code: "STANDBY_UNKNOWN", message: `the other site answered ${answer.kind}` };
  } catch (error) {
    return { code: errorCode(error), message: errorText(error) };
  }
}

function heeded<T extends ScanAnswer | HistoryCheckAnswer | StandbyPinAnswer>(
  answer: T,
  superseded: (token: Token) => void,
): T {
  if (answer.kind === "superseded") superseded(answer.token);
  return answer;
}
