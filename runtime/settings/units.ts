/**
 * Sizes, rates and times as an operator writes them, and back. Pure. A number without a unit is never taken: the
 * reader of a configuration file must not have to guess. Parsers return undefined for anything else than the
 * documented forms; what range makes sense is the caller's business.
 */

const sizeUnits: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
  TiB: 1024 ** 4,
};

/** Bytes per second of one unit. */
const rateUnits: Readonly<Record<string, number>> = {
  "bit/s": 1 / 8,
  "kbit/s": 1e3 / 8,
  "Mbit/s": 1e6 / 8,
  "Gbit/s": 1e9 / 8,
  "KiB/s": 1024,
  "MiB/s": 1024 ** 2,
};

/** Milliseconds of one unit. */
const timeUnits: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

export const sizeForm = "a number with B, KiB, MiB, GiB or TiB, such as 8GiB";
export const rateForm =
  "a number with bit/s, kbit/s, Mbit/s, Gbit/s, KiB/s or MiB/s, such as 50Mbit/s, or unlimited";
export const timeForm = "a number with ms, s, m, h or d, such as 15s";

/** Shapes of the three, for editors; the parsers decide. */
export const sizePattern = "^[0-9]+(\\.[0-9]+)? ?(B|KiB|MiB|GiB|TiB)$";
export const ratePattern = "^([0-9]+(\\.[0-9]+)? ?(bit/s|kbit/s|Mbit/s|Gbit/s|KiB/s|MiB/s)|unlimited)$";
export const windowPattern = "^([0-9]+(\\.[0-9]+)? ?(ms|s|m|h|d)|off)$";
export const timePattern = "^[0-9]+(\\.[0-9]+)? ?(ms|s|m|h|d)$";

/** 15 digits are exact in a double; more would be rounded in silence. */
const amountPattern = /^([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z/]+)$/;

function parseAmount(text: string, units: Readonly<Record<string, number>>): number | undefined {
  const match = amountPattern.exec(text);
  const [amount, unit] = [match?.[1], match?.[2]];
  if (amount === undefined || unit === undefined || !Object.hasOwn(units, unit)) return undefined;
  const value = Number(amount) * (units[unit] ?? Number.NaN);
  return value <= Number.MAX_SAFE_INTEGER ? value : undefined;
}

function parseWhole(text: string, units: Readonly<Record<string, number>>): number | undefined {
  const value = parseAmount(text, units);
  return value !== undefined && Number.isInteger(value) ? value : undefined;
}

/** Whole bytes. `1.5GiB` is taken, `0.3B` is not. */
export function parseSize(text: string): number | undefined {
  return parseWhole(text, sizeUnits);
}

/** Bytes per second, rounded down; null: `unlimited`. */
export function parseRate(text: string): number | null | undefined {
  if (text === "unlimited") return null;
  const value = parseAmount(text, rateUnits);
  return value === undefined ? undefined : Math.floor(value);
}

/** Whole milliseconds. */
export function parseDuration(text: string): number | undefined {
  return parseWhole(text, timeUnits);
}

/** Bytes in the largest unit that keeps the number exact: what `parseSize` reads back as the same number. */
export function formatSizeExact(bytes: number): string {
  for (const unit of ["TiB", "GiB", "MiB", "KiB"]) {
    const scale = sizeUnits[unit] ?? 1;
    if (bytes > 0 && bytes % scale === 0) return `${bytes / scale}${unit}`;
  }
  return `${bytes}B`;
}

/** Rate that `parseRate` reads back as the same number. */
export function formatRateExact(bytesPerSecond: number | null): string {
  if (bytesPerSecond === null) return "unlimited";
  for (const unit of ["Gbit/s", "Mbit/s", "kbit/s", "MiB/s", "KiB/s"]) {
    const scale = rateUnits[unit] ?? 1;
    if (bytesPerSecond > 0 && bytesPerSecond % scale === 0) return `${bytesPerSecond / scale}${unit}`;
  }
  return `${bytesPerSecond * 8}bit/s`;
}

/** Time that `parseDuration` reads back as the same number. */
export function formatDurationExact(ms: number): string {
  for (const unit of ["d", "h", "m", "s"]) {
    const scale = timeUnits[unit] ?? 1;
    if (ms > 0 && ms % scale === 0) return `${ms / scale}${unit}`;
  }
  return `${ms}ms`;
}
