/**
 * Carries out a failover: performs the orders of the failover machine one after another and tells what happens. It
 * owns the phase. A run goes on when the one who ordered it goes away, and only one runs at a time; every decision is
 * the machine's, every durable effect the group's.
 */
import type { AdminLine, FailoverPlan, FailoverResult } from "../../protocol/admin.ts";
import { ExitCode } from "../../protocol/admin.ts";
import type { AdoptedExport } from "../../protocol/handover.ts";
import type { Clock } from "../../runtime/clock.ts";
import { rfc3339 } from "../../runtime/clock.ts";
import { errorCode, errorText, OperationalError } from "../../runtime/errors.ts";
import { LineQueue } from "../../runtime/line-queue.ts";
import type { Log } from "../../runtime/log.ts";
import type { FailoverEffect, FailoverEvent, FailoverPhase } from "./machine.ts";
import { isRunning, step } from "./machine.ts";
import { type FailoverStepId, failoverSteps, obstacleOf } from "./plan.ts";

export interface StepTiming {
  readonly step: FailoverStepId;
  readonly startedAt: string;
  readonly durationMs: number;
}

/** What a group must be able to do; each is durable when it settles, and may be repeated after a failure. */
export interface FailoverGround {
  plan(): FailoverPlan;
  raiseToken(reason: string): Promise<void>;
  drainAndSeal(): Promise<void>;
  applyToSeal(progress: (done: number, total: number) => void): Promise<void>;
  recordHandover(): Promise<void>;
  adopt(): Promise<readonly AdoptedExport[]>;
  /** Writes the report, then that all is done. */
  report(run: {
    readonly plan: FailoverPlan;
    readonly steps: readonly StepTiming[];
    readonly durationMs: number;
    readonly exports: readonly AdoptedExport[];
  }): Promise<FailoverResult>;
}

interface Run {
  readonly reason: string;
  readonly plan: FailoverPlan;
  readonly startedMs: number;
  readonly steps: StepTiming[];
  readonly lines: LineQueue;
  exports: readonly AdoptedExport[];
  result: FailoverResult | undefined;
  error: unknown;
}

const stepOfEffect: { readonly [K in FailoverEffect["kind"]]: FailoverStepId | null } = {
  raiseToken: "raise",
  drainAndSeal: "seal",
  applyToSeal: "apply",
  recordHandover: "record",
  adopt: "adopt",
  report: "report",
  finish: null,
  fail: null,
  refuse: null,
};

export class FailoverRunner {
  readonly #ground: FailoverGround;
  readonly #clock: Clock;
  readonly #log: Log;
  #phase: FailoverPhase = { name: "absent" };
  #driving: Promise<void> = Promise.resolve();

  constructor(ground: FailoverGround, clock: Clock, log: Log) {
    this.#ground = ground;
    this.#clock = clock;
    this.#log = log;
  }

  get phase(): FailoverPhase {
    return this.#phase;
  }

  /** Sets out from what is on disk; only before the first run. */
  startFrom(phase: FailoverPhase): void {
    this.#phase = phase;
  }

  /** The standby was made. */
  created(): void {
    this.#phase = step(this.#phase, { kind: "created" }).phase;
  }

  /** Begins or finishes a failover. Throws OperationalError (`refuse`) with the code of the check that forbids it. */
  run(reason: string): AsyncIterable<AdminLine> {
    const plan = this.#ground.plan();
    const obstacle = obstacleOf(plan);
    return this.#begin({ kind: "runOrdered", obstacle: obstacle?.id ?? null }, reason, plan);
  }

  /** After a restart: finishes what was begun, in the background. A failure leaves it for `run`. */
  resume(): void {
    if (this.#phase.name !== "interrupted") return;
    this.#log.warn("FAILOVER_RESUMED", "a failover was under way when the gateway ended; finishing it");
    this.#begin({ kind: "resumed" }, "resumed after a restart", this.#ground.plan());
  }

  /** Settles when no run is under way. */
  async idle(): Promise<void> {
    await this.#driving;
  }

  #begin(event: FailoverEvent, reason: string, plan: FailoverPlan): LineQueue {
    const { phase, effects } = step(this.#phase, event);
    const first = effects[0];
    if (first === undefined || first.kind === "refuse")
      throw this.#refusal(first?.code ?? "FAILOVER_REFUSED", plan);
    this.#phase = phase;
    const lines = new LineQueue();
    const run = {
      reason,
      plan,
      startedMs: this.#clock.monotonicMs(),
      steps: [],
      lines,
      exports: [],
      result: undefined,
      error: undefined,
    };
    this.#driving = this.#drive(run, first);
    return lines;
  }

  async #drive(run: Run, first: FailoverEffect): Promise<void> {
    let effect: FailoverEffect | undefined = first;
    while (effect !== undefined) {
      if (effect.kind === "finish") run.lines.push({ type: "result", result: run.result });
      if (effect.kind === "fail") run.lines.push(this.#failure(run.error, effect.code));
      const id: FailoverStepId | null = stepOfEffect[effect.kind];
      if (id === null) break;
      const event = await this.#perform(run, effect, id);
      const next = step(this.#phase, event);
      this.#phase = next.phase;
      effect = next.effects[0];
    }
    run.lines.end();
  }

  async #perform(run: Run, effect: FailoverEffect, id: FailoverStepId): Promise<FailoverEvent> {
    this.#tell(run, id, failoverSteps[id]);
    const startedMs = this.#clock.monotonicMs();
    const startedAt = rfc3339(this.#clock.wallMs());
    try {
      const event = await this.#work(run, effect);
      run.steps.push({ step: id, startedAt, durationMs: Math.round(this.#clock.monotonicMs() - startedMs) });
      return event;
    } catch (error) {
      run.error = error;
      this.#log.error("FAILOVER_STEP_FAILED", `failover: ${id} failed`, error, { step: id });
      return { kind: "failed", code: errorCode(error) };
    }
  }

  async #work(run: Run, effect: FailoverEffect): Promise<FailoverEvent> {
    const ground = this.#ground;
    switch (effect.kind) {
      case "raiseToken":
        await ground.raiseToken(run.reason);
        return { kind: "tokenRaised" };
      case "drainAndSeal":
        await ground.drainAndSeal();
        return { kind: "sealed" };
      case "applyToSeal":
        await ground.applyToSeal((done, total) =>
          this.#tell(run, "apply", `${done} of ${total} records applied`, done, total),
        );
        return { kind: "applied" };
      case "recordHandover":
        await ground.recordHandover();
        return { kind: "recorded" };
      case "adopt":
        run.exports = await ground.adopt();
        return { kind: "adopted" };
      case "report":
        run.result = await ground.report({
          plan: run.plan,
          steps: run.steps,
          durationMs: Math.round(this.#clock.monotonicMs() - run.startedMs),
          exports: run.exports,
        });
        return { kind: "reported" };
      case "finish":
      case "fail":
      case "refuse":
        throw new TypeError(`${effect.kind} is not work`);
    }
  }

  #tell(run: Run, id: FailoverStepId, message: string, done?: number, total?: number): void {
    const time = rfc3339(this.#clock.wallMs());
    this.#log.info("FAILOVER_STEP", message, { step: id });
    run.lines.push({
      type: "progress",
      step: id,
      message,
      time,
      ...(done === undefined ? {} : { done }),
      ...(total === undefined ? {} : { total }),
    });
  }

  #refusal(code: string, plan: FailoverPlan): OperationalError {
    const check = plan.checks.find((each) => each.id === code);
    return new OperationalError({
      code,
      message:
        check?.message ??
        (isRunning(this.#phase) ? "a failover is under way" : `refused while ${this.#phase.name}`),
      reaction: "refuse",
      hint: "Look at `splitsite failover plan` for all checks; nothing was changed.",
    });
  }

  #failure(error: unknown, code: string): AdminLine {
    const partly = this.#phase.name === "interrupted";
    return {
      type: "error",
      code: partly ? ExitCode.partlyDone : ExitCode.failed,
      id: code,
      message: errorText(error),
      try: partly
        ? "The old owner is fenced. Mend what the message names and run the failover again; it goes on where it stopped."
        : "Nothing was changed. Mend what the message names and run the failover again.",
    };
  }
}
