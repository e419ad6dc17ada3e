/**
 * How an owner's life ends: what stands against it, the order of the steps, and what is left. Pure but for the ground that the
 * steps are done on. The document says `retired` only when the images hold every answered write (L2, docs/group-life.md); a
 * step that fails before puts the group back into service.
 */
import { orderStatus, orderText } from "../../protocol/group-life.ts";
import type { RetireCheck, RetiredStatus, RetirePlan, RetireRequest } from "../../protocol/retirement.ts";
import { failed, passed, warned } from "../../protocol/retirement.ts";
import type { Reason } from "../../protocol/status.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { AgentGroupPaths } from "../../runtime/paths.ts";
import { requireRetirable } from "../../runtime/require-retirable.ts";
import type { OrderFacts } from "./orders.ts";
import type { AgentGroupState, RetiredOwner } from "./state.ts";

/** Clients have gone, and their last writes may still be on the way: an order waits this long for them, ms. */
const settleMs = 3_000;
/** No client is served while the standby takes the last of it, so this is short, ms. */
const acknowledgeMs = 10_000;
/** What an operator does whom only what `--force` passes over stops. */
const retireAdvice =
  "Stop the clients and wait until status says that nothing is behind; or add --force and leave the standby without it.";

export interface RetireFacts extends OrderFacts {
  readonly site: string;
  readonly paths: Pick<
    AgentGroupPaths,
    "journal" | "watermark" | "writeAhead" | "marker" | "scan" | "verify" | "state"
  >;
  readonly written: number;
  /** What the standby does not have, dropped records included; null: there is none. */
  readonly lacking: { readonly writes: number; readonly bytes: number } | null;
  /** Nothing at the standby can be opened yet. */
  readonly firstSync: boolean;
}

export function planRetire(facts: RetireFacts): RetirePlan {
  const { group, site, state, written, lacking } = facts;
  return {
    ...{ group, site, part: "owner", sequence: written },
    loss: lacking ?? { writes: 0, bytes: 0 },
    ...leftOf(state, facts.paths),
    steps: [
      "close the exports: clients that are still connected get an error",
      "let the standby acknowledge the last of the journal",
      "apply everything answered to the images and sync them",
      "write down that the group's life here has ended",
      "close journal and images; nothing is deleted",
    ],
    checks: [checkOwned(facts), checkServed(facts), checkAcknowledged(facts)],
  };
}

function checkOwned({ group, state, phase }: RetireFacts): RetireCheck {
  if (phase.kind === "fenced") return failed("SUPERSEDED", phase.reason.message);
  return state?.role === "owner"
    ? passed("NOT_OWNER", "this site owns the group")
    : failed("NOT_OWNER", `this site does not own group ${group}`);
}

function checkServed({ phase }: RetireFacts): RetireCheck {
  const id = "NOT_SERVING";
  if (phase.kind === "serving") return passed(id, "journal and images are open");
  const why = "reason" in phase ? phase.reason.message : phase.kind;
  return failed(id, `the images are not proven to hold everything answered: ${why}`);
}

function checkAcknowledged({ lacking, firstSync, state }: RetireFacts): RetireCheck {
  const id = "NOT_ACKNOWLEDGED";
  if (lacking === null) return warned(id, "there is no standby: the images here are the only copy");
  if (firstSync)
    return failed(id, `the standby at ${state?.standby} has not had its first sync: it holds nothing`, true);
  const { writes, bytes } = lacking;
  if (writes === 0) return passed(id, `the standby at ${state?.standby} has everything`);
  return failed(
    id,
    `the standby at ${state?.standby} lacks ${writes} writes (${bytes} bytes), and would lack them for ever`,
    true,
  );
}

/** Where the disks are, and what nobody needs any more. */
function leftOf(state: AgentGroupState | undefined, paths: RetireFacts["paths"]) {
  if (state === undefined) return { images: [], deletable: [] };
  const { epoch } = state.token;
  return {
    images: state.volumes.map(({ name, imagePath }) => ({ volume: name, path: imagePath })),
    deletable: [
      ...[paths.journal(epoch), paths.watermark(epoch), paths.writeAhead(epoch)],
      ...[paths.marker, paths.scan, paths.verify, paths.state],
      ...(state.history === null ? [] : [state.history]),
    ],
  };
}

/** Null: its life goes on. */
export function retiredStatus(
  state: AgentGroupState | undefined,
  paths: RetireFacts["paths"],
): RetiredStatus | null {
  const order = orderStatus(state?.retired ?? null);
  if (order === null || state?.retired == null) return null;
  const { written, loss } = state.retired;
  return { ...order, sequence: written, loss, ...leftOf(state, paths) };
}

export function retiredReason(state: AgentGroupState | undefined): Reason {
  const order = state?.retired;
  const images = state?.volumes.map(({ imagePath }) => imagePath).join(", ") ?? "";
  return {
    code: "GROUP_RETIRED",
    message: `retired ${order == null ? "" : orderText(order)}; never served here again. Its disks: ${images}`,
  };
}

/** What the steps are done on: the group while it has journal and images open. */
export interface RetireGround {
  facts(): RetireFacts;
  /** Settles true once the standby has acknowledged all of the journal, or there is none; false after `patienceMs`. */
  acknowledged(patienceMs: number): Promise<boolean>;
  /** From here on no request is answered with success but those that are in the journal. */
  stopServing(): Promise<void>;
  /** Applies and checkpoints everything answered; false: something failed. */
  drain(): Promise<boolean>;
  /** Makes the role durable. Rejects only where it is certain that it is not. */
  remember(retired: Omit<RetiredOwner, "atMs" | "acknowledged">): Promise<void>;
  serveAgain(cause: unknown): Promise<void>;
  end(): Promise<void>;
}

/** Retires the group, or changes nothing. OperationalError (`refuse`) of the first check that forbids it. */
export async function retireOwner(ground: RetireGround, order: RetireRequest): Promise<void> {
  const { by, reason, force } = order;
  if (!force) await ground.acknowledged(settleMs);
  // Between this look and the end of service nothing is waited for.
  requireRetirable(planRetire(ground.facts()), force, retireAdvice);
  try {
    await ground.stopServing();
    await caughtUp(ground, force);
    if (!(await ground.drain())) {
      throw new OperationalError({
        code: "NOT_APPLIED",
        message: "journal or images failed while the last of it was applied; the group is opened again",
        reaction: "retry",
      });
    }
    // A put that was under way when service ended is in the journal only now.
    await caughtUp(ground, force);
    const { written, lacking } = ground.facts();
    // Survives a crash from here on: the images hold everything, and nobody serves them here any more.
    await ground.remember({ by, reason, written, loss: lacking ?? { writes: 0, bytes: 0 } });
  } catch (error) {
    await ground.serveAgain(error);
    throw error;
  }
  await ground.end();
}

async function caughtUp(ground: RetireGround, force: boolean): Promise<void> {
  if (!force && !(await ground.acknowledged(acknowledgeMs)))
    requireRetirable(
      { ...planRetire(ground.facts()), checks: [checkAcknowledged(ground.facts())] },
      false,
      retireAdvice,
    );
}
