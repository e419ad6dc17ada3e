/**
 * What an owner is answered before anything of this standby is asked: because of its token, of what the group's life here
 * has come to, or of what is not open. Pure. The token is looked at first: whoever is fenced must learn it whatever else is wrong.
 */
import type { BatchHeader } from "../../protocol/batch.ts";
import type { BatchAnswer, Refusal } from "../../protocol/control.ts";
import type { Lineage, Token } from "../../protocol/ids.ts";
import type { Reason } from "../../protocol/status.ts";
import { retiredRefusal } from "../retire.ts";
import type { StandbyDocument } from "../state.ts";
import { judgeToken } from "./machine.ts";

/** A batch that finds the intake being opened comes again after this, ms: the first pause before one that failed is opened anew. */
const openingMs = 1_000;

export interface AnswerFacts {
  readonly document: StandbyDocument | undefined;
  /** Why the group as a whole is stopped. */
  readonly trouble: Reason | null;
}

/** A refusal for what is not open. */
export function stoppedAnswer(trouble: Reason | null): Refusal {
  return {
    kind: "refused",
    code: trouble?.code ?? "STANDBY_STOPPED",
    message: trouble?.message ?? "the standby is not open",
  };
}

/** A batch's answer from its header alone; undefined: the receive lane answers it. */
export function answerWithoutIntake(
  { token: sent }: Pick<BatchHeader, "token">,
  { document, trouble }: AnswerFacts,
  isOpen: boolean,
): BatchAnswer | undefined {
  const token = document?.failover == null ? undefined : judgeToken(sent, document.token);
  if (token !== undefined && !isOpen) return token;
  if (document?.retired != null) return judgeToken(sent, document.token) ?? retiredRefusal;
  if (trouble !== null) return stoppedAnswer(trouble);
  if (document?.phase !== "standing")
    return { kind: "refused", code: "STANDBY_UNKNOWN", message: "no standby here; greet first" };
  if (isOpen) return undefined;
  return {
    kind: "busy",
    code: "STANDBY_OPENING",
    message: "the intake is being opened",
    retryAfterMs: openingMs,
  };
}

/** The answer to who is not the owner of this standby's history; undefined: it is. */
export function answerForeign(lineage: Lineage, sent: Token, { document, trouble }: AnswerFacts) {
  if (document === undefined || document.phase === "creating") {
    return trouble === null ? ({ kind: "unknown" } as const) : stoppedAnswer(trouble);
  }
  const token = judgeToken(sent, document.token);
  if (token !== undefined) return token;
  if (lineage === document.lineage) return document.retired === null ? undefined : retiredRefusal;
  const message = `lineage ${document.lineage} is held here`;
  return { kind: "refused", code: "LINEAGE_FOREIGN", message } satisfies Refusal;
}
