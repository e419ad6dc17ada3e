/**
 * The WAN routes of the gateway: who is it, which group, what does it want. Identity is checked here, before a byte of
 * the body is read; everything else is the group's business.
 */
import {
  controlBytesMax,
  parseHeartbeat,
  parseHello,
  parseScanAsk,
  wanRoutes,
} from "../../protocol/control.ts";
import { parseHistoryAsk } from "../../protocol/history-check.ts";
import type { Token } from "../../protocol/ids.ts";
import type { HttpAnswer, HttpRequest, Route } from "../../runtime/http.ts";
import type { Log } from "../../runtime/log.ts";
import type { StandbyGroup } from "../group.ts";
import { forbidden, refuseForeignSite, refuseForeignToken } from "./admission.ts";

export function wanRoutesOf(groups: ReadonlyMap<string, StandbyGroup>, log: Log): Route[] {
  const admitted =
    (run: (group: StandbyGroup, request: HttpRequest) => Promise<HttpAnswer>) =>
    async (request: HttpRequest): Promise<HttpAnswer> => {
      const group = groups.get(request.params["group"] ?? "");
      const refused =
        group === undefined
          ? forbidden("GROUP_FOREIGN", "this site has no part in that group")
          : refuseForeignSite(request.sites, group.peer);
      if (group !== undefined && refused === undefined) return run(group, request);
      log.warn("PEER_FORBIDDEN", "request of a peer that may not speak for the group", {
        group: request.params["group"],
        sites: request.sites,
        path: request.path,
      });
      return refused ?? forbidden("GROUP_FOREIGN", "this site has no part in that group");
    };
  /** A control message of whoever holds the group's token: parsed whole before it is believed. */
  const asked = <Ask extends { readonly token: Token }>(
    parse: (body: Uint8Array) => Ask,
    answer: (group: StandbyGroup, ask: Ask) => unknown,
  ) =>
    admitted(async (group, request) => {
      const ask = parse(await request.body(controlBytesMax));
      return refuseForeignToken(ask.token, group.peer) ?? { status: 200, json: await answer(group, ask) };
    });
  return [
    {
      method: "GET",
      pattern: wanRoutes.group(":group"),
      run: admitted(async (group) => ({ status: 200, json: group.knowledge() })),
    },
    {
      method: "POST",
      pattern: wanRoutes.hello(":group"),
      run: asked(parseHello, (group, hello) => group.hello(hello)),
    },
    {
      method: "POST",
      pattern: wanRoutes.heartbeat(":group"),
      run: asked(parseHeartbeat, (group, heartbeat) => group.heartbeat(heartbeat)),
    },
    {
      method: "POST",
      pattern: wanRoutes.scan(":group"),
      run: asked(parseScanAsk, (group, ask) => group.scan(ask)),
    },
    {
      method: "POST",
      pattern: wanRoutes.historyCheck(":group"),
      run: asked(parseHistoryAsk, (group, ask) => group.historyCheck(ask)),
    },
    {
      method: "POST",
      pattern: wanRoutes.standbyPin(":group"),
      run: asked(parseScanAsk, (group, ask) => group.pinBeforeRepair(ask)),
    },
    {
      method: "POST",
      pattern: wanRoutes.batches(":group"),
      run: admitted((group, request) => group.batch(request, group.peer)),
    },
  ];
}
