/** Control messages: what is sent is understood, what is malformed is refused by code, what is unknown is ignored. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  controlBytesMax,
  parseBatchAnswer,
  parseGroupKnowledge,
  parseHeartbeat,
  parseHeartbeatAnswer,
  parseHello,
  parseHelloAnswer,
  parseScanAnswer,
  parseScanAsk,
} from "../../protocol/control.ts";
import { RemoteProtocolError } from "../../protocol/remote-error.ts";

const lineage = "00112233-4455-6677-8899-aabbccddeeff";
const token = { epoch: 3, owner: "primary" };
const position = { sequence: 806, chain: "ab".repeat(32) };
const bytes = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value), "utf8");
type Message = Record<string, unknown>;

const messages: readonly (readonly [string, (body: Uint8Array) => object, readonly Message[]])[] = [
  [
    "hello",
    parseHello,
    [
      {
        lineage,
        token,
        volumes: [{ number: 0, name: "data", sizeBytes: 512 }],
        durable: position,
        genesis: position.chain,
        create: true,
      },
      {
        lineage,
        token,
        volumes: [{ number: 0, name: "data", sizeBytes: 512 }],
        durable: position,
        genesis: position.chain,
        create: true,
        initial: "data",
      },
      {
        lineage,
        token,
        volumes: [{ number: 0, name: "data", sizeBytes: 512 }],
        founding: [{ number: 0, name: "data", sizeBytes: 512 }],
        wanted: [
          { number: 0, name: "data", sizeBytes: 1024 },
          { number: 1, name: "log", sizeBytes: 512 },
        ],
        durable: position,
        genesis: position.chain,
        create: true,
      },
    ],
  ],
  [
    "hello answer",
    parseHelloAnswer,
    [
      { kind: "attached", durable: position, applied: 800, token },
      { kind: "attached", durable: position, applied: 800, token, lacks: "empty" },
      { kind: "attached", durable: position, applied: 800, token, lacks: "unknown" },
      { kind: "attached", durable: position, applied: 800, token, partial: [2, 7], wanted: "ready" },
      {
        kind: "attached",
        durable: position,
        applied: 800,
        token,
        wanted: { code: "VOLUME_NOT_CONFIGURED", message: "text" },
      },
      { kind: "unknown" },
      { kind: "superseded", token },
      { kind: "conflict", token },
      { kind: "diverged", lineage, durable: position },
      { kind: "refused", code: "INTAKE_DAMAGED", message: "text" },
    ],
  ],
  [
    "batch answer",
    parseBatchAnswer,
    [
      { kind: "acknowledged", durable: 9, applied: 8 },
      { kind: "wanted", sequence: 10, applied: 8 },
      { kind: "superseded", token },
      { kind: "conflict", token },
      { kind: "diverged", lineage, durable: position },
      { kind: "busy", code: "INTAKE_FULL", message: "text", retryAfterMs: 100 },
      { kind: "refused", code: "X", message: "" },
    ],
  ],
  ["scan ask", parseScanAsk, [{ lineage, token, after: 812 }]],
  [
    "scan answer",
    parseScanAnswer,
    [
      { kind: "findings", since: 3, through: 9, differing: [], more: false },
      {
        kind: "findings",
        since: 3,
        through: 9,
        differing: [
          { sequence: 7, bits: "01" },
          { sequence: 8, bits: "00ff" },
        ],
        more: true,
      },
      { kind: "unknown" },
      { kind: "superseded", token },
      { kind: "conflict", token },
      { kind: "refused", code: "X", message: "" },
    ],
  ],
  [
    "heartbeat",
    parseHeartbeat,
    [
      { lineage, token, answered: 812, dataBytesTotal: 4096, wallMs: 1 },
      {
        ...{ lineage, token, answered: 812, dataBytesTotal: 4096, wallMs: 1 },
        paused: { by: "carol@berlin", reason: "the rack moves", atMs: 5 },
      },
    ],
  ],
  [
    "heartbeat answer",
    parseHeartbeatAnswer,
    [
      { kind: "alive", durable: 9, applied: 8, stopped: null },
      { kind: "alive", durable: 9, applied: 8, stopped: "APPLY_FAILED" },
      { kind: "unknown" },
      { kind: "superseded", token },
      { kind: "conflict", token },
      { kind: "refused", code: "X", message: "" },
    ],
  ],
  [
    "group knowledge",
    parseGroupKnowledge,
    [
      { known: false, lineage: null, token: null },
      { known: true, lineage, token },
    ],
  ],
];

/** Every way to get to a field, for spoiling it. */
function paths(value: unknown, before: readonly string[] = []): (readonly string[])[] {
  if (typeof value !== "object" || value === null) return [before];
  const inner = Object.entries(value).flatMap(([key, part]) => paths(part, [...before, key]));
  return before.length === 0 ? inner : [before, ...inner];
}

function spoiled(message: Message, path: readonly string[], value: unknown): Message {
  const copy = structuredClone(message);
  let holder: Record<string, unknown> = copy;
  for (const key of path.slice(0, -1)) holder = holder[key] as Record<string, unknown>;
  holder[path.at(-1)!] = value;
  return copy;
}

for (const [name, parse, examples] of messages) {
  test(`${name}: comes back as sent, unknown fields ignored`, () => {
    for (const message of examples) assert.deepEqual(parse(bytes({ ...message, laterField: [1] })), message);
  });

  test(`${name}: a wrong type in any field is refused`, () => {
    for (const message of examples) {
      for (const path of paths(message)) {
        const nullable = path.at(-1) === "stopped" || (name === "group knowledge" && path.length === 1);
        const wrong: unknown[] = [true, 1.5, -1, 2 ** 60, [], {}, "\u0000"];
        if (!nullable) wrong.push(null);
        for (const value of wrong) {
          // Not wrong at all: a flag that is set, and no rows.
          const isSet = ["known", "more"].includes(path.at(-1)!) && value === true;
          if (isSet || (path.at(-1) === "differing" && Array.isArray(value))) continue;
          if (path.at(-1) === "create") continue;
          const isText = ["code", "message", "stopped"].includes(path.at(-1)!) && typeof value === "string";
          if (isText) continue;
          assert.throws(
            () => parse(bytes(spoiled(message, path, value))),
            RemoteProtocolError,
            `${path.join(".")}=${JSON.stringify(value)}`,
          );
        }
      }
    }
  });

  test(`${name}: cut at any byte, or any JSON at all, is a RemoteProtocolError or understood`, () => {
    const whole = bytes(examples[0]);
    for (let length = 0; length < whole.byteLength; length += 1) {
      assert.throws(() => parse(whole.subarray(0, length)), RemoteProtocolError);
    }
    fc.assert(
      fc.property(
        fc.oneof(
          fc.json().map((text) => Buffer.from(text)),
          fc.uint8Array(),
        ),
        (body) => {
          try {
            parse(body);
          } catch (error) {
            assert.ok(error instanceof RemoteProtocolError, String(error));
          }
        },
      ),
    );
  });

  test(`${name}: too long, or nested without end, is refused`, () => {
    const long = bytes({ ...examples[0], padding: "x".repeat(controlBytesMax) });
    assert.throws(() => parse(long), RemoteProtocolError);
    assert.throws(() => parse(Buffer.from("[".repeat(60_000))), RemoteProtocolError);
    assert.throws(() => parse(Buffer.from(`{"a":`.repeat(12_000))), RemoteProtocolError);
  });
}

test("a token of epoch 0, a name that is a path, and a lineage in capitals are refused", () => {
  const [, , [heartbeat]] = messages[3]!;
  for (const wrong of [
    { token: { epoch: 0, owner: "primary" } },
    { token: { epoch: 1, owner: "../x" } },
    { lineage: lineage.toUpperCase() },
  ]) {
    assert.throws(() => parseHeartbeat(bytes({ ...heartbeat, ...wrong })), RemoteProtocolError);
  }
});

test("a volume table with a number or a name twice is refused", () => {
  const [, , [hello]] = messages[0]!;
  const row = { number: 0, name: "data", sizeBytes: 512 };
  for (const volumes of [
    [],
    [row, { ...row, name: "log" }],
    [row, { ...row, number: 1 }],
    [{ ...row, number: 65_536 }],
  ]) {
    assert.throws(
      () => parseHello(bytes({ ...hello, volumes })),
      RemoteProtocolError,
      JSON.stringify(volumes),
    );
  }
});
