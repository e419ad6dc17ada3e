/**
 * The checks of `doctor`. Each looks at one thing, answers pass, warn or fail with what to do, and never throws for a
 * failing world. None changes anything: a port is bound and let go, a folder is only looked at.
 */
import { createPrivateKey } from "node:crypto";
import { access, constants, readFile, stat, statfs } from "node:fs/promises";
import { createServer } from "node:net";
import { dirname } from "node:path";
import { connect } from "node:tls";
import { errorCode, errorText } from "../../runtime/errors.ts";
import { sitesInAltNames } from "../../runtime/peer-identity.ts";
import { formatAddress } from "../../runtime/settings/address.ts";
import type { Address, Settings, SiteSettings } from "../../runtime/settings/types.ts";
import { AdminClient } from "../admin-client.ts";
import { certificateFacts, readCertificate } from "../certificates/files.ts";
import { asFailure } from "../failure.ts";
import { bytesText } from "../render/quantities.ts";
import { expiryWarningDays } from "./certs.ts";
import { loadRoles } from "./run.ts";

export interface Diagnosis {
  readonly id: string;
  readonly outcome: "pass" | "warn" | "fail";
  readonly message: string;
  /** What to do; empty when nothing. */
  readonly next: string;
}

const pass = (id: string, message: string): Diagnosis => ({ id, outcome: "pass", message, next: "" });
const warn = (id: string, message: string, next: string): Diagnosis => ({
  id,
  outcome: "warn",
  message,
  next,
});
const fail = (id: string, message: string, next: string): Diagnosis => ({
  id,
  outcome: "fail",
  message,
  next,
});

/** Least version that everything here is built for. */
const nodeLeast = [20, 18, 1] as const;

export function checkRuntime(): Diagnosis {
  const version = process.versions.node.split(".").map(Number);
  const different = nodeLeast.findIndex((part, index) => version[index] !== part);
  const enough = different === -1 || (version[different] ?? 0) > (nodeLeast[different] ?? 0);
  const text = `Node.js ${process.versions.node}`;
  return enough ? pass("node", text) : fail("node", text, `Install Node.js ${nodeLeast.join(".")} or newer.`);
}

/** The database, the codec and the system calls come with the roles, so what is tested is what runs. */
export async function checkNativeModules(): Promise<Diagnosis> {
  try {
    await loadRoles();
    return pass("native-modules", "all load");
  } catch (error) {
    return fail(
      "native-modules",
      errorText(error),
      "Run `npm ci` on this host, for this platform and this Node.js.",
    );
  }
}

export async function checkDaemon(site: SiteSettings): Promise<Diagnosis> {
  try {
    const { groups } = await new AdminClient(site, null).status();
    return pass("daemon", `answers at ${formatAddress(site.admin)}, ${groups.length} group(s)`);
  } catch (error) {
    const failure = asFailure(error);
    return warn("daemon", failure.message, failure.next);
  }
}

const certificateHint = "Make new ones with `splitsite certs rotate`, and copy them to this host.";

export async function checkCertificates(site: SiteSettings): Promise<Diagnosis[]> {
  try {
    const [own, authority] = await Promise.all([
      readCertificate(site.tls.cert),
      readCertificate(site.tls.ca),
    ]);
    const facts = certificateFacts(site.tls.cert, own, Date.now());
    return [
      own.checkIssued(authority) && own.verify(authority.publicKey)
        ? pass("cert-chain", `${site.tls.cert} is issued by ${site.tls.ca}`)
        : fail("cert-chain", `${site.tls.cert} is not issued by ${site.tls.ca}`, certificateHint),
      facts.sites.includes(site.name)
        ? pass("cert-identity", `is that of site ${site.name}`)
        : fail(
            "cert-identity",
            `is that of ${facts.sites.join(", ") || "no site"}, not of ${site.name}`,
            certificateHint,
          ),
      expiry("cert-expiry", facts.daysLeft),
      expiry("ca-expiry", certificateFacts(site.tls.ca, authority, Date.now()).daysLeft),
      await checkKey(site, (key) => own.checkPrivateKey(createPrivateKey(key))),
    ];
  } catch (error) {
    return [
      fail(
        "certificates",
        errorText(error),
        "Make them with `splitsite certs issue`, or correct sites.*.tls.",
      ),
    ];
  }
}

function expiry(id: string, daysLeft: number): Diagnosis {
  if (daysLeft < 0) return fail(id, "has expired", certificateHint);
  const text = `${daysLeft} days left`;
  return daysLeft < expiryWarningDays ? warn(id, text, certificateHint) : pass(id, text);
}

async function checkKey(site: SiteSettings, matches: (key: Buffer) => boolean): Promise<Diagnosis> {
  const path = site.tls.key;
  const { mode } = await stat(path);
  if ((mode & 0o077) !== 0) return fail("key", `others may read ${path}`, `chmod 600 ${path}`);
  if (!matches(await readFile(path)))
    return fail("key", `${path} does not belong to ${site.tls.cert}`, certificateHint);
  return pass("key", "belongs to the certificate, readable by its owner only");
}

/** File systems by the kernel's magic numbers, where that matters. */
const fileSystems: ReadonlyMap<number, { readonly name: string; readonly trouble: string }> = new Map([
  [0x01021994, { name: "tmpfs", trouble: "is memory: everything is gone after a restart" }],
  [0x6969, { name: "NFS", trouble: "does not keep the promises that a journal needs" }],
  [0xff534d42, { name: "CIFS", trouble: "does not keep the promises that a journal needs" }],
  [0x794c7630, { name: "overlayfs", trouble: "copies whole images at their first write" }],
]);

export async function checkDisk(site: SiteSettings): Promise<Diagnosis[]> {
  const folder = await nearestFolder(site.dataDir);
  const found: Diagnosis[] = [];
  try {
    await access(folder, constants.W_OK | constants.X_OK);
    found.push(
      pass("data-dir", folder === site.dataDir ? `${folder} is writable` : `${site.dataDir} can be made`),
    );
  } catch (error) {
    found.push(fail("data-dir", `${folder}: ${errorCode(error)}`, "Give it to the user of the service."));
  }
  const { bavail, bsize, type } = await statfs(folder);
  const free = bavail * bsize;
  const reserve = Math.max(site.agent?.journal.reserveBytes ?? 0, site.gateway?.intake.reserveBytes ?? 0);
  const wanted = reserve + (site.agent?.journal.maxBytes ?? 0) + (site.gateway?.intake.maxBytes ?? 0);
  if (free < reserve) {
    found.push(
      fail(
        "disk-space",
        `${bytesText(free)} free, less than the reserve of ${bytesText(reserve)}`,
        "Make room: nothing can be journalled.",
      ),
    );
  } else if (free < wanted) {
    found.push(
      warn(
        "disk-space",
        `${bytesText(free)} free; journal and intake may grow to ${bytesText(wanted)}`,
        "Lower maxBytes or make room.",
      ),
    );
  } else {
    found.push(pass("disk-space", `${bytesText(free)} free`));
  }
  const known = fileSystems.get(type);
  found.push(
    known === undefined
      ? pass("file-system", "local disk as far as can be seen")
      : warn(
          "file-system",
          `${known.name} ${known.trouble}`,
          "Put dataDir on a local disk file system such as ext4 or XFS.",
        ),
  );
  return found;
}

async function nearestFolder(path: string): Promise<string> {
  try {
    await stat(path);
    return path;
  } catch (error) {
    const parent = dirname(path);
    if (errorCode(error) !== "ENOENT" || parent === path) throw error;
    return nearestFolder(parent);
  }
}

export async function checkPorts(site: SiteSettings): Promise<Diagnosis[]> {
  const addresses = [
    ...(site.agent?.nbd.listen ?? []),
    ...(site.gateway === null ? [] : [site.gateway.listen]),
    site.admin,
  ];
  return Promise.all(addresses.filter((address) => address.kind === "tcp").map(checkPort));
}

function checkPort(address: Extract<Address, { kind: "tcp" }>): Promise<Diagnosis> {
  const id = `port-${address.port}`;
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", (error) =>
      resolve(
        fail(
          id,
          `${formatAddress(address)}: ${errorCode(error)}`,
          "Stop what holds it, or change the address.",
        ),
      ),
    );
    server.listen({ host: address.host, port: address.port }, () => {
      server.close(() => resolve(pass(id, `${formatAddress(address)} is free`)));
    });
  });
}

/** What the configuration permits but an operator should know of. */
export function checkExposure(site: SiteSettings): Diagnosis[] {
  const { agent } = site;
  if (agent === null) return [];
  const open = agent.nbd.listen.filter((address) => address.kind === "tcp" && !isLoopback(address.host));
  const found: Diagnosis[] = [];
  if (agent.nbd.tls === "off" && open.length > 0) {
    found.push(
      warn(
        "nbd-exposure",
        `disks are served without TLS at ${open.map(formatAddress).join(", ")}`,
        "Set nbd.tls to require unless that network is trusted.",
      ),
    );
  }
  if (
    agent.nbd.tls === "require" &&
    agent.nbd.clients.length === 0 &&
    agent.nbd.listen.some(({ kind }) => kind === "tcp")
  ) {
    found.push(
      warn(
        "nbd-clients",
        "TLS is required but no client may open anything",
        "Name the clients and their exports in nbd.clients.",
      ),
    );
  }
  return found;
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || host.startsWith("127.");
}

export async function checkPeers(settings: Settings, site: SiteSettings): Promise<Diagnosis[]> {
  const linked = settings.links.flatMap(({ between }) =>
    between.includes(site.name) ? between.filter((name) => name !== site.name) : [],
  );
  const peers = settings.sites.filter((peer) => linked.includes(peer.name));
  return Promise.all(peers.map((peer) => checkPeer(site, peer)));
}

/** One TLS handshake as the agent would do it, ms at most. */
const handshakeMs = 5_000;

async function checkPeer(site: SiteSettings, peer: SiteSettings): Promise<Diagnosis> {
  const id = `peer-${peer.name}`;
  if (peer.gateway === null) return warn(id, "has no gateway", "Nothing can be shipped to it.");
  const { url } = peer.gateway;
  try {
    const [ca, cert, key] = await Promise.all([
      readFile(site.tls.ca),
      readFile(site.tls.cert),
      readFile(site.tls.key),
    ]);
    const { hostname, port } = new URL(url);
    const altNames = await handshake({
      host: hostname.replace(/^\[|\]$/g, ""),
      port: Number(port || 443),
      ca,
      cert,
      key,
    });
    if (sitesInAltNames(altNames).includes(peer.name))
      return pass(id, `${url} answers with the certificate of ${peer.name}`);
    return fail(
      id,
      `${url} answers with another certificate: ${altNames ?? "no names"}`,
      "The url leads to another site, or its certificate is not its own.",
    );
  } catch (error) {
    const code = errorCode(error);
    return fail(
      id,
      `${url}: ${causes[code] ?? errorText(error)}`,
      hints[code] ?? "Compare tls.ca of both sites: they must be the same file.",
    );
  }
}

const causes: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nothing listens there",
  ENOTFOUND: "the name is not known",
  EAI_AGAIN: "the name service does not answer",
  ETIMEDOUT: "no answer; a firewall may drop the packets",
  EHOSTUNREACH: "no route to that host",
  ENETUNREACH: "no route to that network",
  CERT_HAS_EXPIRED: "its certificate has expired",
  CERT_NOT_YET_VALID: "its certificate is not valid yet; compare the clocks",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "its certificate is from another authority",
  SELF_SIGNED_CERT_IN_CHAIN: "its certificate is from another authority",
};

const hints: Readonly<Record<string, string>> = {
  ECONNREFUSED: "Start the service at the other site, and compare gateway.listen with gateway.url.",
  ENOTFOUND: "Correct gateway.url or the name service.",
  EAI_AGAIN: "Repair the name service of this host, or use an address in gateway.url.",
  ETIMEDOUT: "Let TCP through to the port of gateway.url.",
  CERT_HAS_EXPIRED: "Run `splitsite certs rotate` for the other site.",
  CERT_NOT_YET_VALID: "Set the clocks of both hosts.",
};

interface Handshake {
  readonly host: string;
  readonly port: number;
  readonly ca: Buffer;
  readonly cert: Buffer;
  readonly key: Buffer;
}

function handshake(options: Handshake): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    // The identity is the SAN URI, compared by the caller; host names are only where to find it.
    const socket = connect({ ...options, checkServerIdentity: () => undefined, timeout: handshakeMs }, () => {
      resolve(socket.getPeerCertificate().subjectaltname);
      socket.destroy();
    });
    socket.once("timeout", () => socket.destroy(Object.assign(new Error("timeout"), { code: "ETIMEDOUT" })));
    socket.once("error", reject);
  });
}
