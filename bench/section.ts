/**
 * What a benchmark gives back: figures of one run side by side, and the ratio that the target speaks of. Measures
 * nothing itself.
 */

export interface Row {
  readonly name: string;
  /** Column name -> text, already rounded and with its unit. */
  readonly cells: Readonly<Record<string, string>>;
}

/** A target met or missed in this run. Never a reason to fail: timing belongs to the machine. */
export interface Goal {
  readonly text: string;
  readonly value: number;
  readonly unit: string;
  readonly met: boolean;
}

export interface Section {
  readonly id: string;
  readonly title: string;
  /** Set when a tool is missing: nothing was measured. */
  readonly skipped?: string;
  readonly rows: readonly Row[];
  readonly goals: readonly Goal[];
  /** What a reader must know to trust the figures. */
  readonly notes: readonly string[];
}

export interface BenchOptions {
  /** Length of one measurement. */
  readonly seconds: number;
  /** Alternating repetitions; ratios are medians over them. */
  readonly rounds: number;
  readonly report: (line: string) => void;
}

export type Benchmark = (options: BenchOptions) => Promise<Section>;

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** `value` with 2 significant digits after small numbers and none after large ones. */
export function figure(value: number): string {
  if (value >= 100) return Math.round(value).toLocaleString("en");
  return value.toPrecision(2);
}

export function atLeast(text: string, value: number, least: number): Goal {
  return { text: `${text} >= ${least}`, value, unit: "x", met: value >= least };
}

export function atMost(text: string, value: number, most: number, unit = "x"): Goal {
  return { text: `${text} <= ${most}`, value, unit, met: value <= most };
}

export function skipped(id: string, title: string, reason: string): Section {
  return { id, title, skipped: reason, rows: [], goals: [], notes: [] };
}

/** The value below which a share (0..1) of the values lies. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}
