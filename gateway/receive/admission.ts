/**
 * Who may speak for a group on the WAN: only the certificate of the group's other site, only with its own token.
 * A refused peer learns a code and nothing else, and nothing changes.
 */
import { type AdminError, ExitCode } from "../../protocol/admin.ts";
import type { Token } from "../../protocol/ids.ts";
import type { HttpAnswer } from "../../runtime/http.ts";

/** 403 with a stable code; before the body was read. */
export function forbidden(id: string, message: string): HttpAnswer {
  const json: AdminError = {
    type: "error",
    code: ExitCode.notPermitted,
    id,
    message,
    try: "Check that both sites use the same configuration and their own certificates.",
  };
  return { status: 403, json, early: true };
}

/** The answer to a peer that is not the group's other site; undefined when it is. */
export function refuseForeignSite(sites: readonly string[], peer: string): HttpAnswer | undefined {
  if (sites.includes(peer)) return undefined;
  return forbidden("SITE_FOREIGN", "this certificate is not that of the group's other site");
}

/** A site sends with its own token or not at all. */
export function refuseForeignToken(token: Token, sender: string): HttpAnswer | undefined {
  if (token.owner === sender) return undefined;
  return forbidden("OWNER_FOREIGN", `site ${sender} may not send with the token of another site`);
}
