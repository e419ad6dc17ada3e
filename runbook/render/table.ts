/** Aligned columns without borders, so that output can be cut, grepped and pasted. Pure. */

/** SGR colour sequences take no place on the screen. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: the escape byte is what is looked for
const colours = /\u001b\[[0-9;]*m/g;

function width(text: string): number {
  return text.replace(colours, "").length;
}

/** Lines of the rows, two spaces between columns, no spaces at line ends. Rows may differ in length. */
export function table(rows: readonly (readonly string[])[], indent = ""): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [column, cell] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, width(cell));
  }
  return rows
    .map((row) => {
      const line = row
        .map((cell, column) => cell + " ".repeat((widths[column] ?? 0) - width(cell)))
        .join("  ");
      return `${indent}${line.trimEnd()}\n`;
    })
    .join("");
}
