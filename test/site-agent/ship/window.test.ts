/**
 * The window against a simulated line, in simulated time. Method: a model sender keeps the window full over a line of
 * given rate and delay, the answers feed the window, and what is in flight is compared with what the line can carry.
 */
import { strict as assert } from "node:assert";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { batchRawBytesTarget } from "../../../protocol/batch.ts";
import type { Frame } from "../../../protocol/frame.ts";
import { buildFrame } from "../../../protocol/frame.ts";
import { chooseCodec, codecStart, noteCodec, sampleShrinks } from "../../../site-agent/ship/codec-choice.ts";
import type { SendMark, WindowState } from "../../../site-agent/ship/window.ts";
import {
  batchRawBytes,
  batchWireBytes,
  inFlightBytesMax,
  inFlightBytesMin,
  lineBytesPerSecond,
  markSend,
  noteDelivered,
  noteRoundTrip,
  noteSilence,
  windowStart,
} from "../../../site-agent/ship/window.ts";

const budget = 48 * 1024 * 1024;
const mebibyte = 1024 * 1024;

interface Run {
  readonly bytesPerSecond: number;
  readonly inFlightMax: number;
  readonly answerGapMsMax: number;
  readonly window: WindowState;
}

/** A full sender on a first-come-first-served line with a bottomless buffer, for `seconds` after `warmSeconds`. */
function simulate(
  rate: number,
  roundTripMs: number,
  connections: number,
  seconds: number,
  warmSeconds: number,
): Run {
  let window = noteRoundTrip(windowStart, roundTripMs, 0);
  let nowMs = 0;
  let lineFreeMs = 0;
  let inFlightBytes = 0;
  let flying: { mark: SendMark; bytes: number; answeredMs: number }[] = [];
  let delivered = 0;
  let inFlightMax = 0;
  let gapMax = 0;
  let lastAnswerMs = 0;
  while (nowMs < (seconds + warmSeconds) * 1000) {
    const limit = inFlightBytesMax(window, null, budget);
    for (;;) {
      const bytes = batchWireBytes(window, null, connections);
      if (flying.length >= connections || (flying.length > 0 && inFlightBytes + bytes > limit)) break;
      lineFreeMs = Math.max(lineFreeMs, nowMs) + (bytes * 1000) / rate;
      flying.push({ mark: markSend(window, nowMs), bytes, answeredMs: lineFreeMs + roundTripMs });
      inFlightBytes += bytes;
    }
    const next = flying.reduce((a, b) => (a.answeredMs <= b.answeredMs ? a : b));
    flying = flying.filter((batch) => batch !== next);
    nowMs = Math.max(nowMs, next.answeredMs);
    inFlightBytes -= next.bytes;
    window = noteDelivered(window, next.mark, next.bytes, nowMs);
    if (nowMs >= warmSeconds * 1000) {
      delivered += next.bytes;
      inFlightMax = Math.max(inFlightMax, inFlightBytes + next.bytes);
      gapMax = Math.max(gapMax, nowMs - lastAnswerMs);
    }
    lastAnswerMs = nowMs;
  }
  return {
    bytesPerSecond: (delivered * 1000) / (nowMs - warmSeconds * 1000),
    inFlightMax,
    answerGapMsMax: gapMax,
    window,
  };
}

test("2 Mbit/s behind a bottomless buffer: about a second in flight, answers every second", () => {
  const rate = 250_000;
  const run = simulate(rate, 40, 4, 30, 5);
  assert.ok(run.bytesPerSecond > 0.97 * rate, `${run.bytesPerSecond}`);
  assert.ok(run.inFlightMax <= rate * 1.1, `${run.inFlightMax} in flight`);
  assert.ok(run.answerGapMsMax < 1_500, `${run.answerGapMsMax} ms between answers`);
});

test("1 Gbit/s and 100 ms: four connections fill the line (S7)", () => {
  const rate = 125_000_000;
  const run = simulate(rate, 100, 4, 10, 3);
  assert.ok(run.bytesPerSecond > 0.85 * rate, `${(run.bytesPerSecond / rate) * 100} %`);
});

test("any line: never more than a second and a round trip of it in flight, but 64 KiB", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 8_000, max: 200_000_000 }),
      fc.integer({ min: 1, max: 500 }),
      (rate, roundTripMs) => {
        const run = simulate(rate, roundTripMs, 4, 20, 10);
        const most = Math.max(2 * inFlightBytesMin, rate * (1 + roundTripMs / 1000) * 1.05);
        assert.ok(
          run.inFlightMax <= Math.min(most, 4 * batchRawBytesTarget + 1),
          `${run.inFlightMax} of ${most}`,
        );
      },
    ),
    { numRuns: 60 },
  );
});

test("the limit bounds the estimate, silence cuts it to a quarter, old samples are forgotten", () => {
  let window = noteDelivered(windowStart, markSend(windowStart, 0), mebibyte, 100);
  assert.equal(Math.round(lineBytesPerSecond(window, null) ?? 0), 10 * mebibyte);
  assert.equal(lineBytesPerSecond(window, 1_000), 1_000);
  assert.equal(inFlightBytesMax(window, 1_000, budget), inFlightBytesMin);
  window = noteSilence(window);
  assert.equal(Math.round(lineBytesPerSecond(window, null) ?? 0), 2.5 * mebibyte);
  window = noteDelivered(window, markSend(window, 20_000), 1_000, 21_000);
  assert.equal(Math.round(lineBytesPerSecond(window, null) ?? 0), 1_000);
  assert.ok(window.rates.length <= 11);
});

test("raw lengths follow the ratio and stay within the format's bounds", () => {
  const window = { ...windowStart, ratio: 28 };
  assert.equal(batchRawBytes(window, 1_000_000_000, 4), batchRawBytesTarget);
  assert.equal(batchRawBytes({ ...windowStart, ratio: 1 }, 1_000, 4), 64 * 1024);
});

test("the codec follows the line, and a batch that does not shrink is left alone but for a try now and then", () => {
  const yes = () => true;
  const no = () => false;
  assert.equal(chooseCodec(codecStart, "auto", 250_000, yes), "brotli");
  assert.equal(chooseCodec(codecStart, "auto", 125_000_000, yes), "lz4");
  assert.equal(chooseCodec(codecStart, "auto", undefined, yes), "lz4");
  assert.equal(chooseCodec(codecStart, "lz4", 1, no), "lz4");
  let state = codecStart;
  const used: string[] = [];
  for (let batch = 0; batch < 64; batch += 1) {
    const codec = chooseCodec(state, "auto", 250_000, no);
    used.push(codec);
    state = noteCodec(state, codec, 1_000, 1_000);
  }
  assert.equal(used.filter((codec) => codec === "brotli").length, 4);
  assert.equal(chooseCodec(state, "auto", 250_000, yes), "brotli", "what shrinks does not wait for its turn");
  // A batch that shrank against its sample says that the next may, too.
  state = noteCodec(state, "brotli", 1_000, 100);
  assert.equal(chooseCodec(state, "auto", 250_000, no), "brotli");
});

test("a sample sees that a batch shrinks, wherever in it, whatever its frames", () => {
  const frame = (parts: readonly Uint8Array[]): Frame =>
    buildFrame({
      lineage: new Uint8Array(16),
      first: 1,
      chainBefore: new Uint8Array(32),
      dataBytesBefore: 0,
      openedAtMs: 0,
      closedAtMs: 0,
      records: parts.map((data, index) => ({
        kind: "write",
        volume: 0,
        offset: index * 65_536,
        length: data.byteLength,
        data,
      })),
    });
  const noise = () => randomBytes(65_536);
  const calm = () => Buffer.alloc(65_536, 7);
  assert.equal(sampleShrinks([frame([noise(), noise()]), frame([noise()])]), false);
  for (let at = 0; at < 4; at += 1) {
    const parts = [0, 1, 2, 3].map((index) => (index === at ? calm() : noise()));
    assert.equal(sampleShrinks([frame(parts)]), true, `in part ${at} of one frame`);
    assert.equal(sampleShrinks(parts.map((part) => frame([part]))), true, `in frame ${at}`);
  }
  assert.equal(sampleShrinks([frame([Buffer.alloc(512, 1)])]), true, "a short one");
});
