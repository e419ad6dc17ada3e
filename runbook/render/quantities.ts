/** Bytes, rates and times for people to read: short, rounded, with a unit. Pure; never used in JSON. */

function scaled(value: number, step: number, units: readonly string[]): string {
  let rest = value;
  let index = 0;
  while (rest >= step && index < units.length - 1) {
    rest /= step;
    index += 1;
  }
  const digits = index === 0 || rest >= 100 ? 0 : 1;
  return `${rest.toFixed(digits)} ${units[index] ?? ""}`;
}

export function bytesText(bytes: number): string {
  return scaled(bytes, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
}

export function rateText(bytesPerSecond: number | null): string {
  return bytesPerSecond === null
    ? "unlimited"
    : scaled(bytesPerSecond * 8, 1000, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"]);
}

/** `41 ms`, `1.2 s`, `6m12s`, `4h`, `12d`. */
export function durationText(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1_000);
  if (seconds < 3_600) return `${Math.floor(seconds / 60)}m${seconds % 60 === 0 ? "" : `${seconds % 60}s`}`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 1_440) return `${Math.floor(minutes / 60)}h${minutes % 60 === 0 ? "" : `${minutes % 60}m`}`;
  const hours = Math.round(minutes / 60);
  return `${Math.floor(hours / 24)}d${hours % 24 === 0 ? "" : `${hours % 24}h`}`;
}

/** `48 201 733`. */
export function countText(count: number): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, " ");
}

export function plural(count: number, noun: string): string {
  return `${countText(count)} ${noun}${count === 1 ? "" : "s"}`;
}
