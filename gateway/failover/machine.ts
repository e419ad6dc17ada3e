/**
 * The failover machine of one group at the standby's site: in which order ownership moves, what a crash or failure at
 * each step leaves, and what is refused meanwhile. Pure. The full picture, with the planned moves that are reserved
 * here, the numbered invariants X1..X10 and what each step survives: docs/failover-spec.md.
 *
 *   absent     standing ──run──► raising ─► draining ─► applying ─► recording ─► adopting ─► reporting ─► done
 *                 ▲                 │           │           │           │            │            │
 *                 └── failed ───────┘           └───────────┴─ failed ──┴────────────┴────────────┘
 *                                                              ▼
 *                                                 interrupted (resumes by run, or by restart)
 */
import type { FailoverProgress } from "../state.ts";

/** What has to be done again after an interruption; each is safe to repeat. */
export type ResumePhase = "draining" | "applying" | "adopting";

export type FailoverPhase =
  /** No standby of the group here. */
  | { readonly name: "absent" }
  | { readonly name: "standing" }
  /** The raised token is being made durable. */
  | { readonly name: "raising" }
  /** Token durable; the receive lane empties, then the end of the history is fixed. */
  | { readonly name: "draining" }
  | { readonly name: "applying" }
  /** The hand-over record is being made durable. */
  | { readonly name: "recording" }
  /** The images are the agent's. */
  | { readonly name: "adopting" }
  | { readonly name: "reporting" }
  | { readonly name: "interrupted"; readonly resume: ResumePhase; readonly code: string }
  | { readonly name: "done" };

export type FailoverEvent =
  /** An operator's order; `obstacle` is the first failed check. */
  | { readonly kind: "runOrdered"; readonly obstacle: string | null }
  /** The process started again and found a failover under way. */
  | { readonly kind: "resumed" }
  | { readonly kind: "tokenRaised" }
  | { readonly kind: "sealed" }
  | { readonly kind: "applied" }
  | { readonly kind: "recorded" }
  | { readonly kind: "adopted" }
  | { readonly kind: "reported" }
  | { readonly kind: "failed"; readonly code: string }
  /** The standby was made. */
  | { readonly kind: "created" }
  /** Planned moves and their undoing: room is kept, nothing is built. */
  | { readonly kind: "switchoverOrdered" }
  | { readonly kind: "commitOrdered" }
  | { readonly kind: "rollbackOrdered" }
  | { readonly kind: "failbackOrdered" };

export type FailoverEffect =
  | { readonly kind: "raiseToken" }
  | { readonly kind: "drainAndSeal" }
  | { readonly kind: "applyToSeal" }
  | { readonly kind: "recordHandover" }
  | { readonly kind: "adopt" }
  | { readonly kind: "report" }
  | { readonly kind: "finish" }
  | { readonly kind: "fail"; readonly code: string }
  | { readonly kind: "refuse"; readonly code: string };

export interface FailoverStep {
  readonly phase: FailoverPhase;
  readonly effects: readonly FailoverEffect[];
}

type Name = FailoverPhase["name"];
type Handler<N extends Name, K extends FailoverEvent["kind"]> = (
  phase: Extract<FailoverPhase, { name: N }>,
  event: Extract<FailoverEvent, { kind: K }>,
) => FailoverStep;
type Row<N extends Name> = { readonly [K in FailoverEvent["kind"]]: Handler<N, K> };

const to = (phase: FailoverPhase, ...effects: FailoverEffect[]): FailoverStep => ({ phase, effects });
const stay = (phase: FailoverPhase): FailoverStep => ({ phase, effects: [] });
const refuse = (code: string) => (phase: FailoverPhase) => to(phase, { kind: "refuse", code });
const notBuilt = refuse("NOT_BUILT");
const resumeEffect: { readonly [R in ResumePhase]: FailoverEffect } = {
  draining: { kind: "drainAndSeal" },
  applying: { kind: "applyToSeal" },
  adopting: { kind: "adopt" },
};

const reserved = {
  switchoverOrdered: notBuilt,
  commitOrdered: notBuilt,
  rollbackOrdered: notBuilt,
  failbackOrdered: notBuilt,
};
/** Facts that belong to another phase: a late report of a step that was given up changes nothing (X9). */
const deaf = {
  resumed: stay,
  tokenRaised: stay,
  sealed: stay,
  applied: stay,
  recorded: stay,
  adopted: stay,
  reported: stay,
  failed: stay,
  created: stay,
};
const running = { ...deaf, ...reserved, runOrdered: refuse("FAILOVER_RUNNING") };

const interrupt =
  (resume: ResumePhase) =>
  (_phase: FailoverPhase, { code }: { readonly code: string }): FailoverStep =>
    to({ name: "interrupted", resume, code }, { kind: "fail", code });

/** The full table; a missing cell does not compile. */
const table: { readonly [N in Name]: Row<N> } = {
  absent: {
    ...deaf,
    ...reserved,
    runOrdered: (phase, { obstacle }) => to(phase, { kind: "refuse", code: obstacle ?? "STANDBY_UNKNOWN" }),
    created: () => stay({ name: "standing" }),
  },
  standing: {
    ...deaf,
    ...reserved,
    runOrdered: (phase, { obstacle }) =>
      obstacle === null
        ? to({ name: "raising" }, { kind: "raiseToken" })
        : to(phase, { kind: "refuse", code: obstacle }),
  },
  raising: {
    ...running,
    tokenRaised: () => to({ name: "draining" }, { kind: "drainAndSeal" }),
    // Not durable, so nothing has happened: the old owner is still the owner.
    failed: (_phase, { code }) => to({ name: "standing" }, { kind: "fail", code }),
  },
  draining: {
    ...running,
    sealed: () => to({ name: "applying" }, { kind: "applyToSeal" }),
    failed: interrupt("draining"),
  },
  applying: {
    ...running,
    applied: () => to({ name: "recording" }, { kind: "recordHandover" }),
    failed: interrupt("applying"),
  },
  recording: {
    ...running,
    recorded: () => to({ name: "adopting" }, { kind: "adopt" }),
    failed: interrupt("applying"),
  },
  adopting: {
    ...running,
    adopted: () => to({ name: "reporting" }, { kind: "report" }),
    failed: interrupt("adopting"),
  },
  reporting: {
    ...running,
    reported: () => to({ name: "done" }, { kind: "finish" }),
    failed: interrupt("adopting"),
  },
  interrupted: {
    ...deaf,
    ...reserved,
    runOrdered: ({ resume }) => to({ name: resume }, resumeEffect[resume]),
    resumed: ({ resume }) => to({ name: resume }, resumeEffect[resume]),
  },
  done: { ...deaf, ...reserved, runOrdered: refuse("FAILOVER_DONE") },
};

export function step(phase: FailoverPhase, event: FailoverEvent): FailoverStep {
  // The table's type pairs every phase and kind with its own handler; a lookup by unions cannot express that.
  const handler = table[phase.name][event.kind] as (
    phase: FailoverPhase,
    event: FailoverEvent,
  ) => FailoverStep;
  return handler(phase, event);
}

/** The phase in which a process starts, from what is durable. */
export function phaseFromDisk(standing: boolean, progress: FailoverProgress | null): FailoverPhase {
  switch (progress) {
    case null:
      return { name: standing ? "standing" : "absent" };
    case "fenced":
      return { name: "interrupted", resume: "draining", code: "RESTARTED" };
    case "sealed":
      return { name: "interrupted", resume: "applying", code: "RESTARTED" };
    case "handed-over":
      return { name: "interrupted", resume: "adopting", code: "RESTARTED" };
    case "adopted":
      return { name: "done" };
  }
}

/** A failover of this group is under way in this process. */
export function isRunning(phase: FailoverPhase): boolean {
  return !["absent", "standing", "interrupted", "done"].includes(phase.name);
}
