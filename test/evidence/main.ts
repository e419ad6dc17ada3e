/**
 * `make evidence`: writes docs/evidence.md from the figures that runs of the tests left behind.
 * `node main.js PAGE FOLDER...`: a long campaign is run in slices.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { join } from "node:path";
import { situations } from "../sim/model/situation.ts";
import { faultFamilies } from "../sim/run/faults.ts";
import type { EvidenceLine } from "../support/evidence.ts";
import { evidenceFileName } from "../support/evidence.ts";
import { productFolders } from "../support/product.ts";
import { sheet } from "./sheet.ts";

const [page = join("docs", "evidence.md"), ...folders] = process.argv.slice(2);

/** What the product is made of: with the same of it, what was shown of one commit is shown of the other. */
const product = [...productFolders, "package-lock.json", ":!*.md"];

/** False as well where git cannot tell: then the figures are of some other version. */
function isNow(commit: string): boolean {
  return spawnSync("git", ["diff", "--quiet", commit, "HEAD", "--", ...product]).status === 0;
}

const lines = (folders.length > 0 ? folders : [join("build", "evidence")]).flatMap((folder) =>
  readFileSync(join(folder, evidenceFileName), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as EvidenceLine),
);
const known = new Map(
  [...new Set(lines.map(({ commit }) => commit))].map((commit) => [commit, isNow(commit)]),
);
const machine = {
  day: new Date().toISOString().slice(0, 10),
  text: `${cpus().length} x ${cpus()[0]?.model ?? "?"}, Linux ${release()}, Node ${process.version}`,
};
const order = { families: faultFamilies, states: situations };
writeFileSync(
  page,
  sheet(lines, (commit) => known.get(commit) === true, order, machine),
);
console.log(`wrote ${page}`);
