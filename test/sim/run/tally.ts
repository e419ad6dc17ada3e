/** Adds up what many runs covered, and how many of them proved too little to count. */
import type { Situation } from "../model/situation.ts";
import { situations } from "../model/situation.ts";
import type { FaultFamily, FaultName } from "./faults.ts";
import { faultFamilies } from "./faults.ts";
import type { Outcome, RunCounts } from "./run.ts";
import { struckKey } from "./struck.ts";

export class Tally {
  seeds = 0;
  violations = 0;
  readonly invalid: string[] = [];
  readonly fired = new Map<FaultName, number>();
  /** By "family while situation", as in `Struck`. */
  readonly struck = new Map<string, number>();
  readonly #sums = new Map<keyof RunCounts, number>();

  add(outcome: Outcome): void {
    this.seeds += 1;
    if (outcome.violation !== undefined) this.violations += 1;
    else if (outcome.invalid !== undefined) this.invalid.push(`seed ${outcome.seed}: ${outcome.invalid}`);
    for (const [kind, count] of outcome.fired) this.fired.set(kind, (this.fired.get(kind) ?? 0) + count);
    for (const [key, count] of outcome.struck) this.struck.set(key, (this.struck.get(key) ?? 0) + count);
    for (const [name, value] of Object.entries(outcome.counts) as [keyof RunCounts, number][])
      this.#sums.set(name, name.endsWith("Max") ? Math.max(this.sum(name), value) : this.sum(name) + value);
  }

  get invalidShare(): number {
    return this.seeds === 0 ? 0 : this.invalid.length / this.seeds;
  }

  /** Of all runs; of a name that ends in `Max` the largest. */
  sum(name: keyof RunCounts): number {
    return this.#sums.get(name) ?? 0;
  }

  #struckBy(family: FaultFamily): string {
    const count = (situation: Situation): number => this.struck.get(struckKey(family, situation)) ?? 0;
    return situations.map((situation) => `${situation} ${count(situation)}`).join(", ");
  }

  table(): string {
    const lines = [
      `seeds ${this.seeds}, violations ${this.violations}, invalid ${this.invalid.length}`,
      ...[...this.#sums].map(([name, value]) => `  ${name.padEnd(12)} ${Math.round(value)}`),
      `faults: ${[...this.fired].map(([kind, count]) => `${kind} ${count}`).join(", ")}`,
      ...faultFamilies.map((family) => `  ${family} while ${this.#struckBy(family)}`),
    ];
    return [...lines, ...this.invalid.slice(0, 10).map((text) => `  invalid ${text}`)].join("\n");
  }
}
