/** How much of a line test is run: few rounds by default, so that every change can afford them. */

/**
 * `few`, or what `SPLITSITE_LINE_ROUNDS` says: a factor (`10`) or `all`, which gives `all`, the number beyond which more
 * rounds would say nothing new.
 */
export function lineRounds(few: number, all: number): number {
  const text = process.env["SPLITSITE_LINE_ROUNDS"] ?? "1";
  if (text === "all") return all;
  const factor = Number(text);
  if (!(factor >= 1))
    throw new Error(`SPLITSITE_LINE_ROUNDS=${text} is neither a factor from 1 on nor \`all\``);
  return Math.min(all, Math.round(few * factor));
}
