/**
 * The durable steps of a failover, each of which may be done again: what the runner orders, done on a standby's document and
 * on what is open of it. Decides nothing about their order. It never takes the token down again, and closes the images before
 * the record exists that gives them away (docs/failover-spec.md).
 */
import { dirname } from "node:path";
import type { FailoverPlan, FailoverResult } from "../../protocol/admin.ts";
import type { AdoptedExport, HandoverTarget } from "../../protocol/handover.ts";
import { bytesEqual, bytesFromHex } from "../../protocol/ids.ts";
import type { Clock } from "../../runtime/clock.ts";
import { rfc3339 } from "../../runtime/clock.ts";
import type { Disk } from "../../runtime/disk.ts";
import { syncDirectory } from "../../runtime/disk.ts";
import { writeDocument } from "../../runtime/durable-document.ts";
import { OperationalError } from "../../runtime/errors.ts";
import type { GatewayGroupPaths } from "../../runtime/paths.ts";
import { evidencePath } from "../../runtime/paths.ts";
import type { HeardFile } from "../heard-file.ts";
import type { KeptDocument } from "../kept-document.ts";
import type { Opening } from "../opening.ts";
import { sealedEnd } from "../seal.ts";
import type { FailoverDocument, Seal, StandbyDocument } from "../state.ts";
import { handoverOf } from "./handover.ts";
import { leftOutAt, stateLoss } from "./plan.ts";
import type { FailoverGround, StepTiming } from "./runner.ts";

export interface FailoverWorld {
  readonly group: string;
  readonly site: string;
  readonly dataDir: string;
  readonly paths: Pick<GatewayGroupPaths, "handover" | "history">;
  readonly disk: Disk;
  readonly clock: Clock;
  /** null: no agent at this site. */
  readonly target: HandoverTarget | null;
  readonly kept: KeptDocument;
  readonly opening: Opening;
  readonly heard: HeardFile;
  readonly plan: () => FailoverPlan;
}

type Progress = Pick<FailoverDocument, "progress"> & Partial<Pick<FailoverDocument, "seal" | "received">>;

export class FailoverSteps implements FailoverGround {
  readonly #world: FailoverWorld;

  constructor(world: FailoverWorld) {
    this.#world = world;
  }

  plan(): FailoverPlan {
    return this.#world.plan();
  }

  /**
   * Survives a crash from here on: the old owner is fenced for ever and the run can only be finished. Where it fails the old
   * document is put back, so that a restart does not finish what was reported as not begun; where that fails too, what was
   * acknowledged meanwhile is still before any seal. Where the images have to be taken back, what that takes is read before: a
   * failover that could not end must not begin, while somebody serves.
   */
  async raiseToken(reason: string): Promise<void> {
    const { kept, heard, clock, site, opening } = this.#world;
    const { applier, before } = await opening.required();
    if (before !== undefined && before.sequence === applier.pinned?.sequence) await applier.proveTakingBack();
    await kept.changeOrPutBack(
      (before) => ({
        ...before,
        token: { epoch: before.token.epoch + 1, owner: site },
        failover: {
          progress: "fenced",
          previous: before.token,
          reason,
          startedAtMs: clock.wallMs(),
          heard: heard.now.record,
          seal: null,
          received: null,
        },
      }),
      // While it was written the owner was still listened to: what it said until now belongs to the loss (promise 3). The
      // seal takes it to disk; a crash before that states the loss since the older contact, which is as true.
      (written) => withFailover(written, { heard: heard.now.record }),
    );
  }

  async drainAndSeal(): Promise<void> {
    const { kept, opening } = this.#world;
    const open = await opening.required();
    await open.receiver.fence(kept.required.token);
    // Everything acknowledged is in the log; what was only appended joins it. Nothing can be appended any more.
    const durable = await open.intake.sync();
    if (durable.sequence !== open.intake.tail.sequence)
      throw new RangeError("the intake grew behind the fence");
    const end = await sealedEnd(open);
    // Survives a crash: the same seal is applied, or taken back to, and handed over, whatever happens in between.
    await this.#advance({ progress: "sealed", ...end });
  }

  async applyToSeal(progress: (done: number, total: number) => void): Promise<void> {
    const { kept, opening } = this.#world;
    const seal = this.#seal();
    // An earlier attempt wrote the record without learning that it had: the images are not ours any more.
    if ((await kept.handover()) !== undefined) return;
    const open = await opening.required();
    const chain = bytesFromHex(seal.chain);
    if (chain === undefined) throw new TypeError("a seal has a chain value");
    const records = Math.max(0, seal.sequence - open.applier.appliedSequence);
    await open.applier.bringTo({ sequence: seal.sequence, chain });
    progress(records, records);
    const { applied } = open.applier;
    if (applied?.sequence !== seal.sequence || !bytesEqual(applied.chain, chain)) {
      throw new OperationalError({
        code: "IMAGE_DIVERGED",
        message: "the images are not at the seal",
        reaction: "stop",
      });
    }
  }

  async recordHandover(): Promise<void> {
    const { kept, opening, disk, paths } = this.#world;
    const why = { code: "FAILOVER_RUNNING", message: "the group is handed over" };
    const record = handoverOf(kept.required, this.#seal(), paths.history);
    await opening.exclusive(async () => {
      // Closed before the record exists, and not opened in between: from then on the images are the agent's alone.
      await opening.close("clean", why);
      // Survives a crash: whoever starts next finds that the agent owns images and history from here on.
      await writeDocument(disk, paths.handover, record);
    });
    await this.#advance({ progress: "handed-over" });
  }

  async adopt(): Promise<readonly AdoptedExport[]> {
    const { target, kept } = this.#world;
    const record = await kept.handover();
    if (target === null || record === undefined) {
      throw new OperationalError({
        code: target === null ? "AGENT_MISSING" : "HANDOVER_MISSING",
        message: target === null ? "there is no agent at this site" : "the hand-over record is gone",
        reaction: "refuse",
        hint: "Start the agent role of this site, then run the failover again.",
      });
    }
    return target.adopt(record);
  }

  async report(run: {
    readonly plan: FailoverPlan;
    readonly steps: readonly StepTiming[];
    readonly durationMs: number;
    readonly exports: readonly AdoptedExport[];
  }): Promise<FailoverResult> {
    const { group, site, dataDir, disk, clock, kept } = this.#world;
    const { token, lineage, failover, volumes } = kept.required;
    const seal = this.#seal();
    const evidence = evidencePath(dataDir, `failover-${group}-${token.epoch}`);
    const result: FailoverResult = {
      group,
      epoch: token.epoch,
      point: { sequence: seal.sequence, time: rfc3339(seal.timeMs) },
      loss: stateLoss(failover?.heard ?? null, seal, failover?.received ?? null),
      durationMs: run.durationMs,
      exports: run.exports,
      leftOut: leftOutAt(volumes, seal),
      evidence,
    };
    await disk.makeDirectory(dirname(evidence));
    await syncDirectory(disk, dirname(dirname(evidence)));
    await writeDocument(disk, evidence, {
      kind: "failover",
      site,
      lineage,
      fenced: failover?.previous ?? null,
      token,
      reason: failover?.reason ?? "",
      startedAt: rfc3339(failover?.startedAtMs ?? 0),
      finishedAt: rfc3339(clock.wallMs()),
      seal: { ...seal, time: rfc3339(seal.timeMs) },
      received: failover?.received ?? null,
      lastHeard: failover?.heard ?? null,
      checks: run.plan.checks,
      steps: run.steps,
      result,
    });
    await this.#advance({ progress: "adopted" });
    return result;
  }

  #advance(progress: Progress): Promise<void> {
    return this.#world.kept.change((document) => withFailover(document, progress));
  }

  #seal(): Seal {
    const seal = this.#world.kept.required.failover?.seal;
    if (seal == null) throw new TypeError("not sealed");
    return seal;
  }
}

function withFailover(document: StandbyDocument, change: Partial<FailoverDocument>): StandbyDocument {
  if (document.failover === null) throw new TypeError("no failover under way");
  return { ...document, failover: { ...document.failover, ...change } };
}
