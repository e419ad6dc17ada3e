/** Real NBD clients against the server with a memory device. A missing program skips its test with the reason. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { testAuthority } from "../support/certificates.ts";
import { mustRun, runTool } from "../support/child.ts";
import { requireTools } from "../support/tools.ts";
import { mebibyte, memoryExport, type Rig, startRig } from "./nbd-rig.ts";

const name = "erp/data";

describe("NBD clients", () => {
  let rig: Rig;
  let folder: string;
  const vol = memoryExport(64 * mebibyte);
  const uri = (): string => {
    assert.ok(rig.address.kind === "tcp");
    return `nbd://127.0.0.1:${rig.address.port}/${name}`;
  };

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "splitsite-clients-"));
    rig = await startRig({ [name]: vol, archive: { ...memoryExport(), readOnly: true } });
  });
  after(async () => {
    await rig.drained();
    assert.equal(rig.catalog.opened, rig.catalog.closed);
    await rig.server.close(0);
    await rm(folder, { recursive: true, force: true });
  });

  test("nbdinfo reads what is advertised, and lists", { skip: requireTools("nbdinfo") }, async () => {
    const shown = JSON.parse(await mustRun("nbdinfo", ["--json", uri()])) as {
      exports: Record<string, unknown>[];
    };
    const [info] = shown.exports;
    const expected = {
      "export-name": name,
      "export-size": 64 * mebibyte,
      is_read_only: false,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      block_size_minimum: 512,
      block_size_preferred: 4096,
      block_size_maximum: 32 * mebibyte,
    };
    for (const [key, value] of Object.entries(expected)) assert.equal(info?.[key], value, key);
    assert.deepEqual(info?.["contexts"], ["base:allocation"]);
    const listed = JSON.parse(await mustRun("nbdinfo", ["--list", "--json", uri()])) as typeof shown;
    assert.deepEqual(
      listed.exports.map((entry) => [entry["export-name"], entry["is_read_only"]]),
      [
        [name, false],
        ["archive", true],
      ],
    );
  });

  test("nbdcopy moves an image in and out over four connections", {
    skip: requireTools("nbdcopy"),
  }, async () => {
    const content = Buffer.alloc(64 * mebibyte);
    randomBytes(3 * mebibyte).copy(content, 5 * mebibyte);
    randomBytes(mebibyte).copy(content, 63 * mebibyte);
    await writeFile(join(folder, "in.img"), content);
    await mustRun("nbdcopy", ["--connections=4", "--flush", join(folder, "in.img"), uri()]);
    assert.ok(content.equals(await vol.device.read(0, content.length)));
    await mustRun("nbdcopy", ["--connections=4", uri(), join(folder, "out.img")]);
    assert.ok(content.equals(await readFile(join(folder, "out.img"))));
  });

  test("qemu-io writes patterns, zeroes, discards and reads them back", {
    skip: requireTools("qemu-io"),
  }, async () => {
    const commands = [
      "write -P 0x5a 1M 3M",
      "read -P 0x5a 1M 3M",
      "write -f -P 0x11 512 512",
      "read -P 0x11 512 512",
      "write -z 2M 64k",
      "read -P 0 2M 64k",
      "write -z -u 3M 512k",
      "read -P 0 3M 512k",
      "discard 1M 512k",
      "flush",
      "aio_write -P 0x22 8M 2M",
      "aio_write -P 0x33 10M 2M",
      "aio_flush",
      "read -P 0x22 8M 2M",
      "read -P 0x33 10M 2M",
    ];
    const shown = await mustRun("qemu-io", [
      "-f",
      "raw",
      "-d",
      "unmap",
      ...commands.flatMap((line) => ["-c", line]),
      uri(),
    ]);
    assert.doesNotMatch(shown, /verification failed|error/i);
    const readOnly = await runTool("qemu-io", [
      "-f",
      "raw",
      "-c",
      "write 0 512",
      uri().replace(name, "archive"),
    ]);
    assert.notEqual(readOnly.code, 0);
  });

  test("fio verifies what it wrote at depth 64", { skip: requireTools("fio") }, async () => {
    await mustRun("fio", [
      "--name=verify",
      "--ioengine=nbd",
      `--uri=${uri()}`,
      "--rw=randwrite",
      "--bsrange=512-64k",
      "--blockalign=512",
      "--iodepth=64",
      "--size=64m",
      "--io_size=24m",
      "--verify=crc32c",
      "--verify_state_save=0",
      "--do_verify=1",
      "--verify_fatal=1",
    ]);
  });

  test("nbdinfo gets in over TLS with its certificate, and not without", {
    skip: requireTools("nbdinfo"),
  }, async () => {
    const authority = await testAuthority();
    const server = await authority.issue({ commonName: "localhost", dns: ["localhost"] });
    const client = await authority.issue({ commonName: "host-a" });
    const secured = await startRig(
      { [name]: { ...memoryExport(), allowed: ["host-a"] } },
      { tls: { ca: authority.ca, cert: server.cert, key: server.key, requireClientCertificate: true } },
    );
    try {
      assert.ok(secured.address.kind === "tcp");
      const certificates = join(folder, "pki");
      await mustRun("mkdir", ["-p", certificates]);
      await writeFile(join(certificates, "ca-cert.pem"), authority.ca);
      await writeFile(join(certificates, "client-cert.pem"), client.cert);
      await writeFile(join(certificates, "client-key.pem"), client.key, { mode: 0o600 });
      const target = `//localhost:${secured.address.port}/${name}`;
      const shown = await runTool("nbdinfo", ["--size", `nbds:${target}?tls-certificates=${certificates}`]);
      assert.equal(shown.code, 0);
      assert.equal(shown.stdout.trim(), `${4 * mebibyte}`);
      assert.notEqual((await runTool("nbdinfo", ["--size", `nbd:${target}`])).code, 0);
    } finally {
      await secured.server.close(0);
    }
  });
});
