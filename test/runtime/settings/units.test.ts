/** Units: what is taken, what is refused, and that printing is read back as the same number. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  formatDurationExact,
  formatRateExact,
  formatSizeExact,
  parseDuration,
  parseRate,
  parseSize,
  ratePattern,
  sizePattern,
  timePattern,
} from "../../../runtime/settings/units.ts";

test("documented units", () => {
  assert.equal(parseSize("8GiB"), 8 * 1024 ** 3);
  assert.equal(parseSize("1.5 KiB"), 1536);
  assert.equal(parseSize("0B"), 0);
  assert.equal(parseRate("100Mbit/s"), 12_500_000);
  assert.equal(parseRate("20MiB/s"), 20 * 1024 ** 2);
  assert.equal(parseRate("unlimited"), null);
  assert.equal(parseDuration("5s"), 5_000);
  assert.equal(parseDuration("250ms"), 250);
  assert.equal(parseDuration("1d"), 86_400_000);
});

test("everything else is refused, never guessed", () => {
  for (const text of [
    "",
    "8",
    "8GB",
    "8gib",
    "-1MiB",
    "1e3B",
    "0.3B",
    "Infinity",
    "NaNB",
    "1 GiB ",
    " 1GiB",
    "99999999TiB",
    "8constructor",
  ]) {
    assert.equal(parseSize(text), undefined, text);
  }
  for (const text of ["100", "100Mbps", "100MB/s", "Unlimited", "100 toString", "1Mbit/s/s"]) {
    assert.equal(parseRate(text), undefined, text);
  }
  for (const text of ["5", "5sec", "5S", "0.5ms", "-5s", "5min"])
    assert.equal(parseDuration(text), undefined, text);
});

test("printed quantities read back as the same number", () => {
  const number = fc.nat({ max: 2 ** 45 });
  fc.assert(fc.property(number, (bytes) => assert.equal(parseSize(formatSizeExact(bytes)), bytes)));
  fc.assert(fc.property(number, (rate) => assert.equal(parseRate(formatRateExact(rate)), rate)));
  fc.assert(fc.property(number, (ms) => assert.equal(parseDuration(formatDurationExact(ms)), ms)));
});

test("the patterns for editors take whatever the parsers take", () => {
  const texts = fc.oneof(
    fc.string({ maxLength: 12 }),
    fc
      .tuple(
        fc.nat(),
        fc.constantFrom("", " ", ".5"),
        fc.constantFrom("B", "KiB", "TiB", "Mbit/s", "MiB/s", "s", "ms", "x"),
      )
      .map((parts) => parts.join("")),
  );
  fc.assert(
    fc.property(texts, (text) => {
      if (parseSize(text) !== undefined) assert.match(text, new RegExp(sizePattern));
      if (parseRate(text) !== undefined) assert.match(text, new RegExp(ratePattern));
      if (parseDuration(text) !== undefined) assert.match(text, new RegExp(timePattern));
    }),
  );
});
