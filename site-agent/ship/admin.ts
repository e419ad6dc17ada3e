/**
 * Admin routes of the throttle: show, override, clear. A site has a link per other site; an order without `peer` goes to
 * all of them, and what is shown is the first. It parses and delegates, nothing else.
 */
import type { ThrottleOverride } from "../../protocol/admin.ts";
import { adminRoutes } from "../../protocol/admin.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { HttpAnswer, HttpRequest, Route } from "../../runtime/http.ts";
import type { Link } from "./link.ts";

/** An order is two numbers. */
const orderBytesMax = 4 * 1024;

/** `links` by the other site's name; `?peer=NAME` chooses one. */
export function throttleRoutes(links: ReadonlyMap<string, Link>): Route[] {
  const answer = (chosen: readonly Link[]): HttpAnswer => ({
    status: 200,
    json: chosen[0]?.throttle.status() ?? null,
  });
  const pattern = adminRoutes.throttle;
  return [
    { method: "GET", pattern, run: async (request) => answer(choose(links, request)) },
    {
      method: "PUT",
      pattern,
      run: async (request) => {
        const override = parseOverride(await request.body(orderBytesMax));
        const chosen = choose(links, request);
        for (const link of chosen) link.throttle.setOverride(override);
        return answer(chosen);
      },
    },
    {
      method: "DELETE",
      pattern,
      run: async (request) => {
        const chosen = choose(links, request);
        for (const link of chosen) link.throttle.clearOverride();
        return answer(chosen);
      },
    },
  ];
}

function choose(links: ReadonlyMap<string, Link>, request: HttpRequest): Link[] {
  const peer = request.query.get("peer");
  const chosen = [...links.entries()]
    .filter(([name]) => peer === null || name === peer)
    .map(([, link]) => link);
  if (chosen.length > 0) return chosen;
  throw new OperationalError({
    code: "LINK_UNKNOWN",
    message: peer === null ? "this site has no link" : `this site has no link to ${peer}`,
    reaction: "refuse",
    hint: "See `links` in the configuration.",
  });
}

/** RemoteProtocolError `THROTTLE_MALFORMED`. */
export function parseOverride(body: Uint8Array): ThrottleOverride {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(body).toString("utf8"));
  } catch {
    throw malformed("not JSON");
  }
  if (typeof value !== "object" || value === null) throw malformed("not an object");
  const fields = value as Readonly<Record<string, unknown>>;
  // A missing limit must not mean "unlimited".
  if (fields["limitBytesPerSecond"] === undefined) throw malformed("limitBytesPerSecond is missing");
  return {
    limitBytesPerSecond: positive(fields["limitBytesPerSecond"], "limitBytesPerSecond"),
    durationMs: positive(fields["durationMs"], "durationMs"),
  };
}

function positive(value: unknown, what: string): number | null {
  if (value === null || value === undefined) return null;
  if (typeof value !== "number" || !Number.isFinite(value) || value < 1 || value > Number.MAX_SAFE_INTEGER)
    throw malformed(what);
  return value;
}

function malformed(what: string): RemoteProtocolError {
  return new RemoteProtocolError("THROTTLE_MALFORMED", `throttle order: ${what}`);
}
