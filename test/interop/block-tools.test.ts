/**
 * The product against the clients people really use: libnbd's tools, QEMU's tools, fio. At the end the standby's image
 * must be the same disk, by QEMU's word.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { mustRun, runTool } from "../support/child.ts";
import { TwoSites } from "../support/sites.ts";
import { requireTools } from "../support/tools.ts";

const mebibyte = 1 << 20;
const volumes = { data: 48 * mebibyte, log: 16 * mebibyte };
let sites: TwoSites;

before(async () => {
  sites = await TwoSites.create({ volumes });
  await Promise.all([sites.start("dr"), sites.start("primary")]);
  await sites.waitServing("primary");
});
after(() => sites.dispose());

interface NbdInfo {
  readonly exports: readonly {
    readonly "export-name": string;
    readonly "export-size": number;
    readonly is_read_only: boolean;
    readonly can_flush: boolean;
    readonly can_fua: boolean;
    readonly can_zero: boolean;
    readonly can_trim: boolean;
    readonly can_multi_conn: boolean;
  }[];
}

test("nbdinfo lists both volumes and reads their sizes and flags", {
  skip: requireTools("nbdinfo"),
}, async () => {
  const { host, port } = sites.nbdAddress("primary");
  const listed = JSON.parse(
    await mustRun("nbdinfo", ["--list", "--json", `nbd://${host}:${port}`]),
  ) as NbdInfo;
  assert.deepEqual(
    listed.exports.map((entry) => entry["export-name"]).toSorted((a, b) => a.localeCompare(b)),
    ["erp/data", "erp/log"],
  );
  const one = JSON.parse(await mustRun("nbdinfo", ["--json", sites.uri("primary", "data")])) as NbdInfo;
  const [data] = one.exports;
  assert.equal(data?.["export-size"], volumes.data);
  for (const flag of ["can_flush", "can_fua", "can_zero", "can_trim", "can_multi_conn"] as const)
    assert.equal(data?.[flag], true, flag);
  assert.equal(data?.is_read_only, false);
});

test("an export that does not exist is refused", { skip: requireTools("nbdinfo") }, async () => {
  const { host, port } = sites.nbdAddress("primary");
  assert.notEqual((await runTool("nbdinfo", [`nbd://${host}:${port}/erp/nothing`])).code, 0);
});

test("nbdcopy puts a disk in over four connections and gets the same out", {
  skip: requireTools("nbdcopy", "cmp"),
}, async () => {
  const source = join(sites.folder, "source.img");
  const back = join(sites.folder, "back.img");
  const bytes = Buffer.concat([
    randomBytes(20 * mebibyte),
    Buffer.alloc(8 * mebibyte),
    randomBytes(20 * mebibyte),
  ]);
  await writeFile(source, bytes);
  await mustRun("nbdcopy", ["--connections=4", "--flush", source, sites.uri("primary", "data")]);
  await mustRun("nbdcopy", ["--connections=4", sites.uri("primary", "data"), back]);
  assert.ok(bytes.equals(await readFile(back)));
});

test("qemu-img converts in and finds the export identical", { skip: requireTools("qemu-img") }, async () => {
  const source = join(sites.folder, "log.img");
  await writeFile(
    source,
    Buffer.concat([randomBytes(3 * mebibyte), Buffer.alloc(volumes.log - 3 * mebibyte)]),
  );
  const uri = sites.uri("primary", "log");
  await mustRun("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", source, uri]);
  await mustRun("qemu-img", ["compare", "-f", "raw", "-F", "raw", source, uri]);
});

test("qemu-io reads back the patterns it wrote, zeroed and discarded", {
  skip: requireTools("qemu-io"),
}, async () => {
  const commands = [
    "write -P 0xab 0 1M",
    "write -P 0xcd 512k 4k",
    "write -P 0xef 1536 512",
    "flush",
    "write -z 256k 64k",
    "write -f -P 0x11 2M 64k",
    "discard 768k 128k",
    "read -P 0xcd 512k 4k",
    "read -P 0xef 1536 512",
    "read -P 0xab 2048 2048",
    "read -P 0 256k 64k",
    "read -P 0x11 2M 64k",
    "read -P 0 768k 128k",
  ];
  const { code, output } = await runTool("qemu-io", [
    "-f",
    "raw",
    ...commands.flatMap((text) => ["-c", text]),
    sites.uri("primary", "log"),
  ]);
  assert.equal(code, 0, output);
  assert.doesNotMatch(output, /Pattern verification failed|error/i);
});

test("fio verifies random writes at depth 32 over four connections", {
  skip: requireTools("fio"),
}, async () => {
  const { code, output } = await runTool("fio", [
    "--name=verify",
    "--ioengine=nbd",
    `--uri=${sites.uri("primary", "data")}`,
    "--rw=randwrite",
    "--bsrange=512-64k",
    "--bs_unaligned=0",
    "--blockalign=512",
    "--iodepth=32",
    "--numjobs=4",
    "--size=12m",
    "--offset_increment=12m",
    "--io_size=12m",
    "--verify=crc32c",
    "--verify_fatal=1",
    "--verify_state_save=0",
    "--fsync=64",
    "--randrepeat=0",
  ]);
  assert.equal(code, 0, output);
});

test("once the line is idle the standby's images are the same disks", {
  skip: requireTools("qemu-img"),
}, async () => {
  await sites.waitIdle("primary", "dr");
  for (const { name } of sites.volumes) {
    const standby = await sites.standbyImage("dr", name);
    const compared = await runTool("qemu-img", [
      "compare",
      "-f",
      "raw",
      "-F",
      "raw",
      sites.uri("primary", name),
      standby,
    ]);
    assert.equal(compared.code, 0, `${name}: ${compared.output}`);
  }
  await Promise.all([sites.stop("primary"), sites.stop("dr")]);
  for (const { name } of sites.volumes) {
    const [home, standby] = [await sites.homeImage("primary", name), await sites.standbyImage("dr", name)];
    const compared = await runTool("qemu-img", ["compare", "-f", "raw", "-F", "raw", home, standby]);
    assert.equal(compared.code, 0, `${name} as files: ${compared.output}`);
  }
});
