/**
 * A newer token in the answer to any question of a scan is told at once, whoever still waits for the answer: a scan may have
 * ended while it asked, and the owner would go on answering (I4, I6).
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Token } from "../../../protocol/ids.ts";
import { askFindings, askHistory, askPin } from "../../../site-agent/scan/ask-standby.ts";
import type { Line } from "../../../site-agent/ship/line.ts";

const newer: Token = { epoch: 2, owner: "dr" };
const body = Buffer.from(JSON.stringify({ kind: "superseded", token: newer }));
/** Answers every question alike. */
const line = { control: async () => ({ status: 200, body }) } as unknown as Line;
const base = { lineage: "00".repeat(16), token: { epoch: 1, owner: "primary" }, after: 1 };

type Ask = (superseded: (token: Token) => void) => Promise<unknown>;
const questions: Readonly<Record<string, Ask>> = {
  "what digests found (findings)": (told) => askFindings(line, "g", base as never, told),
  "the check of the before-images": (told) => askHistory(line, "g", base as never, told),
  "the order to pin": (told) => askPin(line, "g", base as never, told),
};

for (const [name, ask] of Object.entries(questions)) {
  test(`a newer token in the answer about ${name} is told`, async () => {
    const told: Token[] = [];
    await ask((token) => told.push(token));
    assert.deepEqual(told, [newer]);
  });
}
