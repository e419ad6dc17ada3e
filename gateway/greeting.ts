/**
 * Greetings of a group's owner: judged, answered, and, where this site holds nothing yet, the standby made. Owns what is in
 * dispute between the two histories. Changes nothing of a standby that is there.
 */
import type { Hello, HelloAnswer, WantedAnswer } from "../protocol/control.ts";
import type { VolumeEntry } from "../protocol/ids.ts";
import { bytesToHex } from "../protocol/ids.ts";
import type { Reason } from "../protocol/status.ts";
import type { Clock } from "../runtime/clock.ts";
import { errorText, OperationalError } from "../runtime/errors.ts";
import type { Log } from "../runtime/log.ts";
import type { GatewayGroupPaths } from "../runtime/paths.ts";
import type { GroupSettings } from "../runtime/settings/types.ts";
import { createStandby, heldImagePath } from "./create.ts";
import { disputeIn, judgeHello, judgeWanted } from "./hello.ts";
import type { IntakeLimits } from "./intake-options.ts";
import type { KeptDocument } from "./kept-document.ts";
import type { Opening } from "./opening.ts";
import { stoppedAnswer } from "./receive/answers.ts";
import { judgeToken } from "./receive/machine.ts";
import { lackOf } from "./scan/completeness.ts";
import type { StandbyStorage } from "./storage.ts";
import { judgeImages } from "./volumes/image-of-change.ts";

export interface GreetingWorld {
  readonly paths: GatewayGroupPaths;
  readonly limits: IntakeLimits;
  readonly storage: StandbyStorage;
  readonly clock: Clock;
  readonly log: Log;
  readonly kept: KeptDocument;
  readonly opening: Opening;
  /** With the volumes of the newest configuration. */
  readonly group: () => GroupSettings;
  /** The state document that this site's own agent would have of the group. */
  readonly agentState: string;
  /** The standby was made. */
  readonly created: () => void;
}

export class Greeting {
  readonly #world: GreetingWorld;
  #dispute: Reason | null = null;

  constructor(world: GreetingWorld) {
    this.#world = world;
  }

  /** The owner's history or table does not fit ours; null once it attaches. */
  get dispute(): Reason | null {
    return this.#dispute;
  }

  answer(hello: Hello): Promise<HelloAnswer> {
    return this.#world.opening.exclusive(() => this.#greet(hello));
  }

  async #greet(hello: Hello): Promise<HelloAnswer> {
    const { kept, opening, storage, paths, agentState, group } = this.#world;
    const { trouble } = opening;
    // A fenced owner must be told so whatever else is wrong here.
    if (trouble !== null && kept.now?.failover == null) return stoppedAnswer(trouble);
    const verdict = judgeHello({
      hello,
      configured: group().volumes,
      document: kept.now,
      held: opening.now?.tableAtEnd,
      ownedHere: storage.disk.exists(agentState) || storage.disk.exists(paths.handover),
      durable: opening.now?.intake.durable,
      applied: opening.now?.applier.appliedSequence ?? 0,
      lacks: lackOf(opening.incompleteAtEnd),
    });
    const answer = verdict.kind === "create" ? await this.#create(hello) : verdict.answer;
    if (verdict.kind === "answer") this.#noteDispute(answer);
    if (answer.kind !== "attached" || hello.wanted === undefined) return answer;
    const wanted = await this.#judgeWanted(hello.wanted);
    // A failover may have fenced the sender during the look, and told it so: nothing is taken from it any more (X2).
    return judgeToken(hello.token, kept.required.token) ?? { ...answer, wanted };
  }

  #noteDispute(answer: HelloAnswer): void {
    const dispute = disputeIn(answer);
    if (dispute === undefined) return;
    this.#dispute = dispute;
    if (dispute === null) return;
    this.#world.log.error("OWNER_REFUSED", dispute.message, undefined, { reason: dispute.code });
  }

  /** Whether this standby could follow a change to the wanted table now. Changes nothing. */
  async #judgeWanted(wanted: readonly VolumeEntry[]): Promise<WantedAnswer> {
    const { kept, opening, storage, paths } = this.#world;
    const group = this.#world.group();
    const document = kept.required;
    const held = opening.now?.tableAtEnd ?? document.volumes;
    const judged = judgeWanted(wanted, group.volumes, held);
    if (judged !== "ready") return judged;
    const trouble = opening.anyTrouble;
    if (trouble !== null) return { code: trouble.code, message: trouble.message };
    return judgeImages(wanted, held, storage.images, (volume) =>
      heldImagePath(document, volume, group, paths),
    );
  }

  async #create(hello: Hello): Promise<HelloAnswer> {
    const { paths, limits, storage, clock, log, kept, opening, group, created } = this.#world;
    try {
      const unfinished = kept.now;
      kept.made(
        await createStandby({ group: group(), paths, hello, limits, unfinished, storage, clock, log }),
      );
    } catch (error) {
      // A half-made standby on disk is read back, so that the next greeting begins again from what is there.
      await kept.read();
      if (!(error instanceof OperationalError)) throw error;
      log.error("STANDBY_CREATE_FAILED", "the standby could not be made", error);
      return { kind: "refused", code: error.code, message: errorText(error) };
    }
    log.info("STANDBY_CREATED", "standby made", { lineage: hello.lineage, epoch: hello.token.epoch });
    created();
    await opening.open();
    const open = opening.now;
    if (open === undefined) return stoppedAnswer(opening.trouble);
    const { durable } = open.intake;
    const lacks = lackOf(opening.incompleteAtEnd);
    return {
      kind: "attached",
      durable: { sequence: durable.sequence, chain: bytesToHex(durable.chain) },
      applied: open.applier.appliedSequence,
      token: hello.token,
      ...(lacks === undefined ? {} : { lacks }),
    };
  }
}
