/** Commands that need no daemon: help, usage, configuration, certificates, snippets, doctor, choice of the site. */
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { connect, createServer } from "node:tls";
import { commands } from "../../runbook/commands.ts";
import { loadSettings, parseSettings } from "../../runtime/settings/load.ts";
import { cli, errorLine, initialised, scratch } from "./bench-stand.ts";

/** What the contract promises of the commands that are built. */
const promised = [
  "run",
  "init",
  "certs issue",
  "certs show",
  "certs rotate",
  "config check",
  "config show",
  "config schema",
  "doctor",
  "status",
  "watch",
  "attach",
  "throttle show",
  "throttle set",
  "throttle clear",
  "failover plan",
  "failover run",
  "group create",
  "group pause",
  "group resume",
  "group retire",
  "journal verify",
  "journal stats",
  "points",
  "image export",
  "version",
];
const globals = ["--config", "--site", "--json", "--yes", "--dry-run", "--reason", "--timeout"];

test("every promised command exists, with help, examples and the global flags", async () => {
  for (const path of promised) {
    const help = await cli([...path.split(" "), "--help"]);
    assert.equal(help.exit, 0, path);
    assert.match(help.out, /Examples:\n {2}splitsite /, path);
    for (const flag of globals) assert.ok(help.out.includes(flag), `${path} knows ${flag}`);
    assert.equal(help.err, "");
  }
});

test("every command, option and example stands in docs/runbook.md", async () => {
  const page = await readFile("docs/runbook.md", "utf8");
  for (const { path, options = [] } of commands) {
    assert.ok(page.includes(`splitsite ${path.join(" ")}`), path.join(" "));
    for (const { flags } of options) assert.ok(page.includes(flags.split(" ")[0] ?? ""), flags);
  }
});

test("examples parse: each names a command and options that exist", () => {
  const known = new Set([
    ...globals,
    ...commands.flatMap(({ options = [] }) => options.map(({ flags }) => flags.split(" ")[0])),
  ]);
  for (const { path, examples } of commands) {
    assert.ok(examples.length > 0, path.join(" "));
    for (const example of examples) {
      assert.ok(example.startsWith(`splitsite ${path.join(" ")}`), example);
      for (const [flag] of example.matchAll(/--[a-z-]+/g))
        assert.ok(known.has(flag), `${flag} in: ${example}`);
    }
  }
});

test("wrong usage is 2, in both forms of the error", async () => {
  for (const words of [
    ["statuss"],
    ["status", "--nosuch"],
    [],
    ["failover"],
    ["attach"],
    ["version", "extra"],
    ["status", "--timeout", "5"],
  ]) {
    const ran = await cli(words);
    assert.equal(ran.exit, 2, words.join(" "));
    assert.match(ran.err, /^error: .+\ntry: .+\n$/);
    const json = await cli([...words, "--json"]);
    assert.equal(json.exit, 2, words.join(" "));
    assert.deepEqual([errorLine(json)["type"], errorLine(json)["code"]], ["error", 2]);
  }
});

test("a wrong configuration is 3 and names every place", async (context) => {
  const path = join(await scratch(context), "splitsite.yaml");
  await writeFile(path, "version: 1\nsites: {}\ngroups: {}\nlinks: []\ncolour: red\n");
  const ran = await cli(["config", "check", "--config", path, "--json"]);
  assert.equal(ran.exit, 3);
  const line = errorLine(ran);
  assert.equal(line["id"], "CONFIG_INVALID");
  const [finding] = line["findings"] as { line: number; key: string }[];
  assert.deepEqual([finding?.line, finding?.key], [5, "colour"]);
  const text = await cli(["config", "check"], { env: { SPLITSITE_CONFIG: path } });
  assert.ok(text.err.startsWith(`error: ${path}:5:1: colour: `), text.err);
  assert.equal((await cli(["status", "--config", "/nosuch.yaml"])).exit, 3);
});

test("config show is the same configuration again; it holds no secret to hide", async (context) => {
  const { folder, config } = await initialised(context);
  const file = join(folder, "splitsite.yaml");
  const settings = await loadSettings(file);
  const shown = await cli(["config", "show", ...config]);
  assert.deepEqual(parseSettings(file, shown.out), settings);
  assert.deepEqual(
    JSON.parse((await cli(["config", "show", "--json", ...config])).out),
    JSON.parse(JSON.stringify(settings)),
  );
  const key = (await readFile(join(folder, "tls", "primary.key"), "utf8")).split("\n")[1] ?? "";
  assert.ok(key.length > 20 && !shown.out.includes(key));
});

test("the samples are described in full: shown and read back they are the same", async () => {
  for (const name of ["local", "two-hosts"]) {
    const settings = await loadSettings(`config/${name}.yaml`);
    const shown = await cli(["config", "show", "--config", `config/${name}.yaml`]);
    assert.deepEqual(parseSettings(settings.file, shown.out), settings);
  }
});

test("init: keys for their owner only, identities, and nothing overwritten", async (context) => {
  const { folder } = await initialised(context, "--volume", "db=32MiB", "--group", "erp");
  const settings = await loadSettings(join(folder, "splitsite.yaml"));
  assert.deepEqual(
    settings.groups.map(({ name, volumes }) => [name, volumes.map((volume) => volume.name)]),
    [["erp", ["db"]]],
  );
  for (const key of ["tls/primary.key", "tls/dr.key", "authority/ca.key"]) {
    assert.equal((await stat(join(folder, key))).mode & 0o777, 0o600, key);
  }
  const authority = new X509Certificate(await readFile(join(folder, "tls/ca.pem")));
  assert.equal(authority.ca, true);
  for (const name of ["primary", "dr"]) {
    const certificate = new X509Certificate(await readFile(join(folder, `tls/${name}.pem`)));
    assert.ok(
      certificate.verify(authority.publicKey) && certificate.checkIssued(authority) && !certificate.ca,
    );
    assert.match(certificate.subjectAltName ?? "", new RegExp(`URI:splitsite:site:${name}\\b`));
    assert.ok(
      certificate.checkIP("127.0.0.1") !== undefined && certificate.checkHost("localhost") !== undefined,
    );
    assert.deepEqual(certificate.keyUsage, ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]);
  }
  const before = await readFile(join(folder, "tls/primary.key"), "utf8");
  const again = await cli(["init", folder, "--json"]);
  assert.deepEqual([again.exit, errorLine(again)["id"]], [6, "FILE_EXISTS"]);
  assert.equal(await readFile(join(folder, "tls/primary.key"), "utf8"), before);
});

test("init for two hosts serves disks on the host only and names the hosts", async (context) => {
  const { folder } = await initialised(
    context,
    "--primary-host",
    "berlin.example.net",
    "--dr-host",
    "10.2.0.5",
    "--limit",
    "20Mbit/s",
  );
  const { sites, links } = await loadSettings(join(folder, "splitsite.yaml"));
  assert.deepEqual(
    sites.map((site) => site.gateway?.url),
    ["https://berlin.example.net:7700", "https://10.2.0.5:7700"],
  );
  assert.equal(links[0]?.limitBytesPerSecond, 2_500_000);
  for (const site of sites)
    assert.ok(
      site.agent?.nbd.listen.every((address) => address.kind === "tcp" && address.host === "127.0.0.1"),
    );
  const certificate = new X509Certificate(await readFile(join(folder, "tls/dr.pem")));
  assert.equal(certificate.checkIP("10.2.0.5"), "10.2.0.5");
});

test("init: wrong choices and --dry-run leave nothing behind", async (context) => {
  const folder = join(await scratch(context), "new");
  for (const wrong of [
    ["--group", "ERP"],
    ["--volume", "db"],
    ["--volume", "db=5"],
    ["--limit", "9"],
    ["--dr-host", "a.example"],
    ["--primary-host", "a b", "--dr-host", "c"],
  ]) {
    assert.equal((await cli(["init", folder, ...wrong])).exit, 2, wrong.join(" "));
  }
  const odd = await cli(["init", folder, "--volume", "db=1000B"]);
  assert.equal(odd.exit, 3, "the file is checked before anything is written");
  assert.equal((await cli(["init", folder, "--dry-run"])).exit, 0);
  await assert.rejects(readdir(folder), { code: "ENOENT" });
});

test("site certificates work for mutual TLS, a client's only connects", async (context) => {
  const { folder, config } = await initialised(context);
  assert.equal((await cli(["certs", "issue", "--client", "kvm-a", ...config])).exit, 0);
  const read = (path: string) => readFile(join(folder, path));
  const ca = await read("tls/ca.pem");
  const server = createServer({
    ca,
    cert: await read("tls/dr.pem"),
    key: await read("tls/dr.key"),
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: "TLSv1.3",
  });
  const names: string[] = [];
  server.on("secureConnection", (socket) => {
    names.push(String(socket.getPeerCertificate().subject.CN));
    socket.end();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  context.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  for (const [cert, key] of [
    ["tls/primary.pem", "tls/primary.key"],
    ["tls/clients/kvm-a/client-cert.pem", "tls/clients/kvm-a/client-key.pem"],
  ] as const) {
    const socket = connect({ host: "127.0.0.1", port, ca, cert: await read(cert), key: await read(key) });
    await once(socket, "secureConnect");
    assert.equal(socket.authorized, true);
    socket.resume();
    await once(socket, "close");
  }
  assert.deepEqual(names, ["primary", "kvm-a"]);
  const client = new X509Certificate(await read("tls/clients/kvm-a/client-cert.pem"));
  assert.deepEqual(client.keyUsage, ["1.3.6.1.5.5.7.3.2"], "it cannot play a server");
  assert.ok(!(client.subjectAltName ?? "").includes("splitsite:site:"), "nor a site");
});

test("certs: shown, rotated, never overwritten by issue", async (context) => {
  const { folder, config } = await initialised(context);
  const shown = await cli(["certs", "show", "--json", ...config]);
  assert.equal(shown.exit, 0);
  const { certificates } = JSON.parse(shown.out) as {
    certificates: { sites: string[]; daysLeft: number; notAfter: string }[];
  };
  assert.deepEqual(
    certificates.map(({ sites }) => sites),
    [[], ["primary"], ["dr"]],
  );
  assert.ok(certificates.every(({ daysLeft }) => daysLeft > 800));
  assert.ok(!shown.out.includes("PRIVATE"));
  const again = await cli(["certs", "issue", "--site", "dr", "--json", ...config]);
  assert.deepEqual([again.exit, errorLine(again)["id"]], [6, "FILE_EXISTS"]);

  const before = new X509Certificate(await readFile(join(folder, "tls/dr.pem")));
  assert.equal((await cli(["certs", "rotate", "--site", "dr", ...config])).exit, 0);
  const after = new X509Certificate(await readFile(join(folder, "tls/dr.pem")));
  assert.notEqual(after.fingerprint256, before.fingerprint256);
  assert.equal((await stat(join(folder, "tls/dr.key"))).mode & 0o777, 0o600);
  assert.deepEqual(
    (await readdir(join(folder, "tls"))).filter((name) => name.includes(".new")),
    [],
  );
  const doctor = await cli(["doctor", "--site", "dr", "--json", ...config]);
  const { checks } = JSON.parse(doctor.out) as { checks: { id: string; outcome: string }[] };
  for (const id of ["cert-chain", "cert-identity", "key"])
    assert.equal(checks.find((check) => check.id === id)?.outcome, "pass", id);
  assert.equal(
    checks.find((check) => check.id === "peer-primary")?.outcome,
    "fail",
    "nothing listens at the other site",
  );
  assert.equal(doctor.exit, 7);
});

test("attach prints the right address for every client", async (context) => {
  const { config } = await initialised(context);
  for (const kind of ["qemu", "libvirt", "xen", "nbd-client", "windows"]) {
    const ran = await cli(["attach", "app/data", "--for", kind, ...config]);
    assert.equal(ran.exit, 0);
    assert.ok(
      ran.out.includes("10809") && ran.out.includes("127.0.0.1") && ran.out.includes("app/data"),
      kind,
    );
  }
  const dr = await cli(["attach", "data", "--for", "qemu", "--site", "dr", "--json", ...config]);
  assert.equal((JSON.parse(dr.out) as { uri: string }).uri, "nbd://127.0.0.1:10819/app/data");
  assert.match(dr.out, /reconnect-delay=/);
  assert.equal((await cli(["attach", "nosuch", "--for", "qemu", ...config])).exit, 2);
  assert.equal((await cli(["attach", "data", "--for", "vmware", ...config])).exit, 2);
  const tls = await cli([
    "attach",
    "erp/data",
    "--for",
    "qemu",
    "--client",
    "kvm-a",
    "--config",
    "config/two-hosts.yaml",
  ]);
  assert.match(tls.out, /tls-creds-x509,.*dir=.*kvm-a/);
  const unix = await cli([
    "attach",
    "erp/data",
    "--for",
    "libvirt",
    "--unix",
    "--config",
    "config/two-hosts.yaml",
  ]);
  assert.match(unix.out, /transport='unix' socket='\/run\/splitsite\/nbd.sock'/);
});

test("the site: named, from the environment, by the key on this host, else asked for", async (context) => {
  const { folder, config } = await initialised(context);
  const both = await cli(["doctor", "--json", ...config]);
  assert.match(both.out, /which site is meant/);
  const wrong = await cli(["status", "--site", "paris", "--json", ...config]);
  assert.deepEqual([wrong.exit, /primary, dr/.test(String(errorLine(wrong)["try"]))], [2, true]);
  const named = await cli(["status", "--json", ...config], { env: { SPLITSITE_SITE: "dr" } });
  assert.match(String(errorLine(named)["message"]), /site dr/);
  const { unlink } = await import("node:fs/promises");
  await unlink(join(folder, "tls/primary.key"));
  const only = await cli(["status", "--json", ...config]);
  assert.match(String(errorLine(only)["message"]), /site dr/);
});

test("run: a role that the site does not have is a matter of configuration", async (context) => {
  const { folder, config } = await initialised(context);
  const file = join(folder, "splitsite.yaml");
  const text = await readFile(file, "utf8");
  const start = text.indexOf("    gateway:");
  await writeFile(file, text.slice(0, start) + text.slice(text.indexOf("  dr:")));
  const ran = await cli(["run", "--site", "primary", "--role", "gateway", "--json", ...config]);
  assert.deepEqual([ran.exit, errorLine(ran)["id"]], [3, "ROLE_NOT_CONFIGURED"]);
  assert.equal((await cli(["run", "--site", "primary", "--role", "pilot", ...config])).exit, 2);
  assert.equal((await cli(["run", "--site", "primary", "--log", "loud", ...config])).exit, 2);
  assert.equal((await cli(["run", "--site", "primary", "--dry-run", ...config])).exit, 0);
});
