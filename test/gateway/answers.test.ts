/** What an owner is answered before anything of the standby is asked: every life of the group with every token that comes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { answerForeign, answerWithoutIntake, stoppedAnswer } from "../../gateway/receive/answers.ts";
import type { StandbyDocument } from "../../gateway/state.ts";
import type { Token } from "../../protocol/ids.ts";

const lineage = "6f6ae1ee-5ad5-4d4c-9d7c-7a0a31a0a001";
const seal = { sequence: 4, chain: "ab".repeat(32), dataBytesTotal: 4096, timeMs: 0 };
const own: Token = { epoch: 2, owner: "hq" };
const tokens = {
  own,
  older: { epoch: 1, owner: "hq" },
  newer: { epoch: 3, owner: "hq" },
  conflicting: { epoch: 2, owner: "dr" },
} as const satisfies Record<string, Token>;

const standing: StandbyDocument = {
  version: 1,
  group: "erp",
  lineage,
  token: own,
  genesis: "cd".repeat(32),
  volumes: [],
  phase: "standing",
  failover: null,
  retired: null,
  incomplete: null,
};
const documents = {
  none: undefined,
  creating: { ...standing, phase: "creating" },
  standing,
  fencing: {
    ...standing,
    failover: {
      ...{ progress: "fenced", previous: tokens.older, reason: "", startedAtMs: 0 },
      ...{ heard: null, seal: null, received: null },
    },
  },
  retired: {
    ...standing,
    retired: { by: "me", reason: "", atMs: 0, seal, loss: { writes: 0, bytes: 0 } },
  },
} as const satisfies Record<string, StandbyDocument | undefined>;

type Life = keyof typeof documents;
type Sent = keyof typeof tokens;

/** The code of an answer, or its kind; null: somebody else answers. */
function said(answer: { readonly kind: string; readonly code?: string } | undefined): string | null {
  return answer === undefined ? null : (answer.code ?? answer.kind);
}

/** With the intake closed, and with it open. */
const batches: Readonly<
  Record<Life, Readonly<Record<Sent, readonly [closed: string | null, open: string | null]>>>
> = {
  none: {
    own: ["STANDBY_UNKNOWN", "STANDBY_UNKNOWN"],
    older: ["STANDBY_UNKNOWN", "STANDBY_UNKNOWN"],
    newer: ["STANDBY_UNKNOWN", "STANDBY_UNKNOWN"],
    conflicting: ["STANDBY_UNKNOWN", "STANDBY_UNKNOWN"],
  },
  creating: {
    own: ["STANDBY_UNKNOWN", "STANDBY_UNKNOWN"],
    older: ["STANDBY_UNKNOWN", "STANDBY_UNKNOWN"],
    newer: ["STANDBY_UNKNOWN", "STANDBY_UNKNOWN"],
    conflicting: ["STANDBY_UNKNOWN", "STANDBY_UNKNOWN"],
  },
  standing: {
    own: ["STANDBY_OPENING", null],
    older: ["STANDBY_OPENING", null],
    newer: ["STANDBY_OPENING", null],
    conflicting: ["STANDBY_OPENING", null],
  },
  fencing: {
    own: ["STANDBY_OPENING", null],
    older: ["superseded", null],
    newer: ["TOKEN_UNKNOWN", null],
    conflicting: ["conflict", null],
  },
  retired: {
    own: ["GROUP_RETIRED", "GROUP_RETIRED"],
    older: ["superseded", "superseded"],
    newer: ["TOKEN_UNKNOWN", "TOKEN_UNKNOWN"],
    conflicting: ["conflict", "conflict"],
  },
};

/** Of a control message with the lineage that is held, and with another one. */
const messages: Readonly<
  Record<Life, Readonly<Record<Sent, readonly [ours: string | null, other: string | null]>>>
> = {
  none: {
    own: ["unknown", "unknown"],
    older: ["unknown", "unknown"],
    newer: ["unknown", "unknown"],
    conflicting: ["unknown", "unknown"],
  },
  creating: {
    own: ["unknown", "unknown"],
    older: ["unknown", "unknown"],
    newer: ["unknown", "unknown"],
    conflicting: ["unknown", "unknown"],
  },
  standing: {
    own: [null, "LINEAGE_FOREIGN"],
    older: ["superseded", "superseded"],
    newer: ["TOKEN_UNKNOWN", "TOKEN_UNKNOWN"],
    conflicting: ["conflict", "conflict"],
  },
  fencing: {
    own: [null, "LINEAGE_FOREIGN"],
    older: ["superseded", "superseded"],
    newer: ["TOKEN_UNKNOWN", "TOKEN_UNKNOWN"],
    conflicting: ["conflict", "conflict"],
  },
  retired: {
    own: ["GROUP_RETIRED", "LINEAGE_FOREIGN"],
    older: ["superseded", "superseded"],
    newer: ["TOKEN_UNKNOWN", "TOKEN_UNKNOWN"],
    conflicting: ["conflict", "conflict"],
  },
};

const lives = Object.keys(documents) as Life[];
const sent = Object.keys(tokens) as Sent[];

test("a batch is answered from its header where the group's life here has decided already", () => {
  for (const life of lives) {
    for (const token of sent) {
      const facts = { document: documents[life], trouble: null };
      const answers = [false, true].map((isOpen) =>
        said(answerWithoutIntake({ token: tokens[token] }, facts, isOpen)),
      );
      assert.deepEqual(answers, batches[life][token], `${life}, ${token} token`);
    }
  }
});

test("a control message is answered by who is no owner of the history held here", () => {
  for (const life of lives) {
    for (const token of sent) {
      const facts = { document: documents[life], trouble: null };
      const answers = [lineage, "00000000-0000-4000-8000-000000000000"].map((each) =>
        said(answerForeign(each, tokens[token], facts)),
      );
      assert.deepEqual(answers, messages[life][token], `${life}, ${token} token`);
    }
  }
});

test("a group that is stopped says why, but the token and the end of its life are told before", () => {
  const trouble = { code: "JOURNAL_DAMAGED", message: "damaged" };
  const batch = (life: Life, token: Sent, isOpen: boolean) =>
    said(answerWithoutIntake({ token: tokens[token] }, { document: documents[life], trouble }, isOpen));
  assert.equal(batch("standing", "older", false), "JOURNAL_DAMAGED");
  assert.equal(batch("fencing", "older", false), "superseded");
  assert.equal(batch("fencing", "older", true), "JOURNAL_DAMAGED");
  assert.equal(batch("retired", "own", false), "GROUP_RETIRED");
  const message = (life: Life, token: Sent) =>
    said(answerForeign(lineage, tokens[token], { document: documents[life], trouble }));
  assert.equal(message("none", "own"), "JOURNAL_DAMAGED", "nobody is told that it is unknown here");
  assert.equal(message("standing", "older"), "superseded");
  assert.equal(message("standing", "own"), null, "the asked part says it itself");
  assert.deepEqual(stoppedAnswer(trouble), { kind: "refused", ...trouble });
  assert.equal(said(stoppedAnswer(null)), "STANDBY_STOPPED");
});
