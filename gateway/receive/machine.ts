/**
 * The intake machine: decides, for one group, what happens to every offered batch. Pure: no socket, log, timer or
 * clock; it sees facts and gives orders. It must never order an acknowledgement for what is not durable, or after
 * the token was raised. States, table and invariants N1..N9: docs/intake-spec.md.
 *
 *            offered ──► refused / superseded / conflict / diverged / wanted            (nothing changes)
 *               │
 *               ├─ known already ──► checking ──► syncing ──► acknowledged
 *               ├─ next, turn free ──► turn: reading ──► appending ──► syncing ──► acknowledged
 *               └─ ahead, or turn taken ──► waiting ──► turn, or wanted when the wait is over
 */
import type { BatchAnswer } from "../../protocol/control.ts";
import type { ChainPosition, ChainValue, LineageBytes, Sequence, Token } from "../../protocol/ids.ts";
import { bytesEqual, bytesToHex, compareTokens, lineageToText } from "../../protocol/ids.ts";

/** `accepting`: the normal condition. `halted`: this machine's life is over, a new one is made on reopening. */
export type IntakeCondition = "accepting" | "halted" | "fenced";

/** What the header of a batch says; `id` is the request it came with. */
export interface Offer {
  readonly id: number;
  readonly lineage: LineageBytes;
  readonly token: Token;
  readonly first: Sequence;
  readonly last: Sequence;
  readonly payloadBytes: number;
  readonly chainBefore: ChainValue;
  readonly chainAfter: ChainValue;
}

export interface Halt {
  readonly code: string;
  readonly message: string;
  /** True: the sender should come again by itself (`busy`); false: an operator is needed (`refused`). */
  readonly passing: boolean;
}

export interface IntakeState {
  readonly condition: IntakeCondition;
  readonly lineage: LineageBytes;
  /** The token held: batches must carry exactly this one. */
  readonly token: Token;
  /** Synced: survives power loss. Never above `tail`. */
  readonly durable: ChainPosition;
  /** Appended. */
  readonly tail: ChainPosition;
  readonly applied: Sequence;
  readonly halt: Halt | null;
  /** The one batch whose body is read and appended. */
  readonly turn: { readonly offer: Offer; readonly phase: "reading" | "appending" } | null;
  /** Offers ahead of their turn, bodies unread. */
  readonly waiting: readonly Offer[];
  /** Appended, to be acknowledged when durable. */
  readonly syncing: readonly Offer[];
  /** Wholly at or below `tail` when offered: is it the same history? */
  readonly checking: readonly Offer[];
}

export type IntakeEvent =
  | { readonly kind: "offered"; readonly offer: Offer }
  /** The chain value known at a checked offer's last sequence; undefined: trimmed too long ago. */
  | { readonly kind: "looked"; readonly id: number; readonly chain: ChainValue | undefined }
  /** The turn's body is here and verified in itself; appending starts. */
  | { readonly kind: "bodyRead"; readonly id: number }
  /** All frames of the turn were appended. */
  | { readonly kind: "appended"; readonly id: number; readonly tail: ChainPosition }
  /** The turn's body broke off or did not verify; its request was answered by the shell. */
  | { readonly kind: "bodyFailed"; readonly id: number }
  /** No room for the turn; some of its frames may have been appended. */
  | {
      readonly kind: "roomShort";
      readonly id: number;
      readonly tail: ChainPosition;
      readonly code: string;
      readonly message: string;
    }
  | { readonly kind: "synced"; readonly durable: ChainPosition }
  | { readonly kind: "appliedThrough"; readonly sequence: Sequence }
  | { readonly kind: "waitExpired"; readonly id: number }
  /** The peer of a waiting offer went away. */
  | { readonly kind: "gone"; readonly id: number }
  /** A higher token is durable at this site. */
  | { readonly kind: "fenced"; readonly token: Token }
  | { readonly kind: "halted"; readonly halt: Halt };

export type IntakeEffect =
  | { readonly kind: "answer"; readonly id: number; readonly answer: BatchAnswer }
  /** Read the body, verify it, report `bodyRead`, append, report `appended` (or how it failed). */
  | { readonly kind: "take"; readonly id: number }
  /** Stop reading the body of this request; an answer has been ordered. */
  | { readonly kind: "abandon"; readonly id: number }
  /** Look up the chain value at `sequence`, report `looked`. */
  | { readonly kind: "look"; readonly id: number; readonly sequence: Sequence }
  /** Make what was appended durable, report `synced`. */
  | { readonly kind: "sync" }
  /** (Re)start the wait of this offer, report `waitExpired`. */
  | { readonly kind: "wait"; readonly id: number };

export interface IntakeStep {
  readonly state: IntakeState;
  readonly effects: readonly IntakeEffect[];
}

/**
 * Bounds of the lane (N6). Bodies of waiting offers are not read, so these bound what may lie in socket buffers for
 * one group: eight is twice the connections of a link, 16 MiB four batches of full size.
 */
export const laneOffersMax = 8;
export const laneBytesMax = 16 * 1024 * 1024;
/** How long the sender should wait after `busy`, ms. */
export const busyRetryMs = 1_000;

export function startIntake(input: {
  readonly lineage: LineageBytes;
  readonly token: Token;
  /** Everything in the log must be synced when the machine starts, so durable and tail are one position. */
  readonly durable: ChainPosition;
  readonly applied: Sequence;
}): IntakeState {
  return {
    condition: "accepting",
    ...input,
    tail: input.durable,
    halt: null,
    turn: null,
    waiting: [],
    syncing: [],
    checking: [],
  };
}

/** No frame is being appended: with the fence up, the tail cannot move any more. */
export function isDrained(state: IntakeState): boolean {
  return state.turn === null;
}

type Handler<K extends IntakeEvent["kind"]> = (
  state: IntakeState,
  event: Extract<IntakeEvent, { kind: K }>,
) => IntakeStep;
type Row = { readonly [K in IntakeEvent["kind"]]: Handler<K> };

const stay = (state: IntakeState): IntakeStep => ({ state, effects: [] });

/** The full table; a missing cell does not compile. */
const table: { readonly [C in IntakeCondition]: Row } = {
  accepting: {
    offered: (state, { offer }) => offered(state, offer),
    looked: (state, { id, chain }) => looked(state, id, chain),
    bodyRead: (state, { id }) =>
      state.turn?.offer.id === id
        ? stay({ ...state, turn: { ...state.turn, phase: "appending" } })
        : stay(state),
    appended: (state, { id, tail }) => {
      if (state.turn?.offer.id !== id) return stay(state);
      const { offer } = state.turn;
      return promote({ ...state, tail, turn: null, syncing: [...state.syncing, offer] }, [{ kind: "sync" }]);
    },
    bodyFailed: (state, { id }) =>
      state.turn?.offer.id === id ? promote({ ...state, turn: null }, []) : stay(state),
    roomShort: (state, { id, tail, code, message }) => {
      if (state.turn?.offer.id !== id) return stay(state);
      // Those that wait come after the one that found no room: they are told at once instead of at their end.
      const told = [id, ...state.waiting.map((offer) => offer.id)];
      return {
        state: { ...state, tail, turn: null, waiting: [] },
        effects: [
          ...told.map((each): IntakeEffect => answer(each, busy({ code, message }))),
          ...(tail.sequence > state.durable.sequence ? [{ kind: "sync" } as const] : []),
        ],
      };
    },
    synced: (state, { durable }) => synced(state, durable),
    appliedThrough: (state, { sequence }) => stay({ ...state, applied: Math.max(state.applied, sequence) }),
    waitExpired: (state, { id }) => {
      if (!state.waiting.some((offer) => offer.id === id)) return stay(state);
      // A turn under way may take minutes on a thin line; it ends by the progress watchdog of its body.
      if (state.turn !== null) return { state, effects: [{ kind: "wait", id }] };
      return {
        state: { ...state, waiting: without(state.waiting, id) },
        effects: [answer(id, wanted(state))],
      };
    },
    gone: (state, { id }) => stay({ ...state, waiting: without(state.waiting, id) }),
    fenced: (state, { token }) => fence(state, token),
    halted: (state, { halt }) => halted(state, halt),
  },
  halted: {
    offered: (state, { offer }) => {
      const refused = refuseIdentity(state, offer) ?? haltAnswer(state.halt);
      return { state, effects: [answer(offer.id, refused)] };
    },
    looked: stay,
    bodyRead: stay,
    appended: (state, { tail }) => stay({ ...state, tail, turn: null }),
    bodyFailed: (state) => stay({ ...state, turn: null }),
    roomShort: (state, { tail }) => stay({ ...state, tail, turn: null }),
    synced: stay,
    appliedThrough: (state, { sequence }) => stay({ ...state, applied: Math.max(state.applied, sequence) }),
    waitExpired: stay,
    gone: stay,
    fenced: (state, { token }) => stay({ ...state, condition: "fenced", token }),
    halted: stay,
  },
  fenced: {
    // Same or newer epochs than the raised one are a conflict or unknown; the fenced owner is told so for ever.
    offered: (state, { offer }) => {
      const refused = refuseIdentity(state, offer) ?? superseded(state);
      return { state, effects: [answer(offer.id, refused)] };
    },
    looked: stay,
    bodyRead: stay,
    // Was being appended when the token rose: inside the seal, but nobody is told that it is durable here (N3).
    appended: (state, { id, tail }) =>
      state.turn?.offer.id === id ? stay({ ...state, tail, turn: null }) : stay(state),
    bodyFailed: (state, { id }) =>
      state.turn?.offer.id === id ? stay({ ...state, turn: null }) : stay(state),
    roomShort: (state, { id, tail }) =>
      state.turn?.offer.id === id ? stay({ ...state, tail, turn: null }) : stay(state),
    synced: (state, { durable }) => stay({ ...state, durable: newest(state.durable, durable) }),
    appliedThrough: (state, { sequence }) => stay({ ...state, applied: Math.max(state.applied, sequence) }),
    waitExpired: stay,
    gone: stay,
    fenced: stay,
    halted: (state, { halt }) => stay({ ...state, halt, turn: null }),
  },
};

/** One step. Ids that are not known any more are ignored: their request has been answered. */
export function step(state: IntakeState, event: IntakeEvent): IntakeStep {
  // The table's type pairs every kind with its own handler; the lookup by a union cannot express that.
  const handler = table[state.condition][event.kind] as (
    state: IntakeState,
    event: IntakeEvent,
  ) => IntakeStep;
  return handler(state, event);
}

function offered(state: IntakeState, offer: Offer): IntakeStep {
  const refused = refuseIdentity(state, offer);
  if (refused !== undefined) return { state, effects: [answer(offer.id, refused)] };
  const { tail } = state;
  if (offer.last <= tail.sequence) return check(state, offer);
  if (offer.first <= tail.sequence) return { state, effects: [answer(offer.id, wanted(state))] };
  if (offer.first > tail.sequence + 1) return wait(state, offer);
  if (!bytesEqual(offer.chainBefore, tail.chain))
    return { state, effects: [answer(offer.id, diverged(state))] };
  if (state.turn === null) return take(state, offer, []);
  if (state.turn.phase === "appending") return wait(state, offer);
  // The sender has given the earlier attempt up (its connection died without a word): do not wait for it.
  const { id } = state.turn.offer;
  return take(state, offer, [answer(id, wanted(state)), { kind: "abandon", id }]);
}

/** Lineage, then token; undefined when both are ours. */
function refuseIdentity(state: IntakeState, offer: Offer): BatchAnswer | undefined {
  if (!bytesEqual(offer.lineage, state.lineage)) return diverged(state);
  return judgeToken(offer.token, state.token);
}

/**
 * What a sender with the token `offered` is told by a standby that holds `held`; undefined when it may go on. The
 * same for batches, greetings and heartbeats.
 */
export function judgeToken(offered: Token, held: Token) {
  switch (compareTokens(offered, held)) {
    case "same":
      return undefined;
    case "older":
      return { kind: "superseded", token: held } as const;
    case "conflict":
      return { kind: "conflict", token: held } as const;
    case "newer":
      return {
        kind: "refused",
        code: "TOKEN_UNKNOWN",
        message: `epoch ${offered.epoch} is newer than ${held.epoch} held here; tokens rise only here`,
      } as const;
  }
}

function take(state: IntakeState, offer: Offer, before: readonly IntakeEffect[]): IntakeStep {
  return {
    state: { ...state, turn: { offer, phase: "reading" } },
    effects: [...before, { kind: "take", id: offer.id }],
  };
}

function check(state: IntakeState, offer: Offer): IntakeStep {
  return {
    state: { ...state, checking: [...state.checking, offer] },
    effects: [{ kind: "look", id: offer.id, sequence: offer.last }],
  };
}

function wait(state: IntakeState, offer: Offer): IntakeStep {
  let bytes = offer.payloadBytes;
  for (const each of state.waiting) bytes += each.payloadBytes;
  if (state.waiting.length >= laneOffersMax || bytes > laneBytesMax) {
    return { state, effects: [answer(offer.id, wanted(state))] };
  }
  return {
    state: { ...state, waiting: [...state.waiting, offer] },
    effects: [{ kind: "wait", id: offer.id }],
  };
}

function looked(state: IntakeState, id: number, chain: ChainValue | undefined): IntakeStep {
  const offer = state.checking.find((each) => each.id === id);
  if (offer === undefined) return stay(state);
  const rest = { ...state, checking: without(state.checking, id) };
  if (chain !== undefined && !bytesEqual(chain, offer.chainAfter)) {
    return { state: rest, effects: [answer(id, diverged(state))] };
  }
  if (offer.last <= state.durable.sequence)
    return { state: rest, effects: [answer(id, acknowledged(state))] };
  return { state: { ...rest, syncing: [...state.syncing, offer] }, effects: [{ kind: "sync" }] };
}

function synced(before: IntakeState, durable: ChainPosition): IntakeStep {
  const state = { ...before, durable: newest(before.durable, durable) };
  const done = state.syncing.filter((offer) => offer.last <= state.durable.sequence);
  return {
    state: { ...state, syncing: state.syncing.filter((offer) => offer.last > state.durable.sequence) },
    effects: done.map((offer) => answer(offer.id, acknowledged(state))),
  };
}

/** After the tail or the turn changed: who of those waiting can go on, and who has become pointless. */
function promote(start: IntakeState, before: readonly IntakeEffect[]): IntakeStep {
  let state: IntakeState = { ...start, waiting: [] };
  const effects = [...before];
  for (const offer of start.waiting) {
    if (
      offer.first > state.tail.sequence + 1 ||
      (state.turn !== null && offer.first === state.tail.sequence + 1)
    ) {
      state = { ...state, waiting: [...state.waiting, offer] };
      continue;
    }
    const next = offered(state, offer);
    state = next.state;
    effects.push(...next.effects);
  }
  return { state, effects };
}

function fence(state: IntakeState, token: Token): IntakeStep {
  const raised = { ...state, condition: "fenced" as const, token, waiting: [], syncing: [], checking: [] };
  const told = [...state.waiting, ...state.syncing, ...state.checking].map((offer) =>
    answer(offer.id, superseded(raised)),
  );
  if (state.turn === null) return { state: raised, effects: told };
  const { id } = state.turn.offer;
  told.push(answer(id, superseded(raised)));
  if (state.turn.phase === "reading") {
    return { state: { ...raised, turn: null }, effects: [...told, { kind: "abandon", id }] };
  }
  return { state: raised, effects: told };
}

function halted(state: IntakeState, halt: Halt): IntakeStep {
  const offers = [...state.waiting, ...state.syncing, ...state.checking];
  if (state.turn !== null) offers.push(state.turn.offer);
  const effects: IntakeEffect[] = offers.map((offer) => answer(offer.id, haltAnswer(halt)));
  if (state.turn?.phase === "reading") effects.push({ kind: "abandon", id: state.turn.offer.id });
  return {
    state: { ...state, condition: "halted", halt, turn: null, waiting: [], syncing: [], checking: [] },
    effects,
  };
}

function answer(id: number, body: BatchAnswer): IntakeEffect & { kind: "answer" } {
  return { kind: "answer", id, answer: body };
}

function acknowledged(state: IntakeState): BatchAnswer {
  return { kind: "acknowledged", durable: state.durable.sequence, applied: state.applied };
}

function wanted(state: IntakeState): BatchAnswer {
  return { kind: "wanted", sequence: state.tail.sequence + 1, applied: state.applied };
}

function superseded(state: IntakeState): BatchAnswer {
  return { kind: "superseded", token: state.token };
}

function diverged(state: IntakeState): BatchAnswer {
  const durable = { sequence: state.durable.sequence, chain: bytesToHex(state.durable.chain) };
  return { kind: "diverged", lineage: lineageToText(state.lineage), durable };
}

function busy(why: { readonly code: string; readonly message: string }): BatchAnswer {
  return { kind: "busy", code: why.code, message: why.message, retryAfterMs: busyRetryMs };
}

function haltAnswer(halt: Halt | null): BatchAnswer {
  const why = halt ?? { code: "HALTED", message: "the group is stopped", passing: true };
  return why.passing ? busy(why) : { kind: "refused", code: why.code, message: why.message };
}

function newest(a: ChainPosition, b: ChainPosition): ChainPosition {
  return b.sequence > a.sequence ? b : a;
}

function without(offers: readonly Offer[], id: number): readonly Offer[] {
  return offers.filter((offer) => offer.id !== id);
}
