/**
 * The gateway's part of the admin endpoint: the points of its standbys, what a failover would do, and doing it. A run goes on when the caller
 * goes away; asking again tells that it is under way.
 */
import { pastRoutes } from "../image/past-routes.ts";
import { adminRoutes } from "../protocol/admin.ts";
import { RemoteProtocolError } from "../protocol/remote-error.ts";
import { retireRequestOf } from "../protocol/retirement.ts";
import type { Clock } from "../runtime/clock.ts";
import { OperationalError } from "../runtime/errors.ts";
import type { HttpRequest, Route } from "../runtime/http.ts";
import type { LongOrder } from "../runtime/order-lines.ts";
import { orderLines } from "../runtime/order-lines.ts";
import type { StandbyGroup } from "./group.ts";

/** A request is one short JSON object. */
const requestBytesMax = 16 * 1024;
const reasonLengthMax = 1_000;

export function gatewayAdminRoutes(groups: ReadonlyMap<string, StandbyGroup>, clock: Clock): Route[] {
  const groupOf = (request: HttpRequest): StandbyGroup => {
    const group = groups.get(request.params["group"] ?? "");
    if (group !== undefined) return group;
    throw new OperationalError({
      code: "GROUP_UNKNOWN",
      message: `the gateway of this site has no group ${request.params["group"]}`,
      reaction: "refuse",
      hint: "Look at `splitsite status` for the groups of this site.",
    });
  };
  return [
    ...pastRoutes("gateway", groupOf, clock),
    {
      method: "GET",
      pattern: adminRoutes.failoverPlan(":group"),
      run: async (request) => ({ status: 200, json: groupOf(request).plan() }),
    },
    {
      method: "POST",
      pattern: adminRoutes.failoverRun(":group"),
      run: async (request) => {
        const group = groupOf(request);
        const reason = parseReason(await request.body(requestBytesMax));
        return { status: 200, lines: group.runner.run(reason) };
      },
    },
    ...retireRoutes(groupOf, clock),
  ];
}

function retireRoutes(groupOf: (request: HttpRequest) => StandbyGroup, clock: Clock): Route[] {
  const pattern = adminRoutes.retire("gateway", ":group");
  const long: LongOrder = {
    step: "retire",
    message: "bringing the images to where the standby ends",
    clock,
    advice: "Look at `splitsite status`. What was written down is finished at the next start.",
  };
  return [
    { method: "GET", pattern, run: async (request) => ({ status: 200, json: groupOf(request).retirePlan }) },
    {
      method: "POST",
      pattern,
      run: async (request) => {
        const group = groupOf(request);
        const order = retireRequestOf(parseJson(await request.body(requestBytesMax)));
        return { status: 200, lines: orderLines(long, () => group.retire(order)) };
      },
    },
  ];
}

function parseJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(body).toString("utf8"));
  } catch {
    throw new RemoteProtocolError("REQUEST_MALFORMED", "the request is not JSON");
  }
}

function parseReason(body: Uint8Array): string {
  const value = parseJson(body);
  const reason = typeof value === "object" && value !== null && "reason" in value ? value.reason : undefined;
  if (typeof reason !== "string" || reason.length > reasonLengthMax) {
    throw new RemoteProtocolError(
      "REQUEST_MALFORMED",
      `reason must be a text of at most ${reasonLengthMax} characters`,
    );
  }
  return reason;
}
