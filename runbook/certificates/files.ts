/**
 * Certificates as files: where the authority and the sites' certificates lie next to the configuration, written so
 * that a key is never readable by others, not even for a moment, and nothing is ever overwritten unasked. Reads
 * certificates back for showing and checking. Never prints a key.
 */
import { X509Certificate } from "node:crypto";
import { mkdir, open, readFile, rename, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { errorCode, OperationalError } from "../../runtime/errors.ts";
import { sitesInAltNames } from "../../runtime/peer-identity.ts";
import type { KeyedCertificate } from "./authority.ts";

/** Folder of the authority's key, next to the configuration; it belongs on neither site's host in the long run. */
export function authorityFolder(configFile: string): string {
  return join(dirname(configFile), "authority");
}

export interface AuthorityFiles {
  readonly cert: string;
  readonly key: string;
}

export function authorityFiles(folder: string): AuthorityFiles {
  return { cert: join(folder, "ca.pem"), key: join(folder, "ca.key") };
}

export async function readAuthority(folder: string): Promise<KeyedCertificate> {
  const files = authorityFiles(folder);
  try {
    return { certPem: await readFile(files.cert, "utf8"), keyPem: await readFile(files.key, "utf8") };
  } catch (cause) {
    throw new OperationalError({
      code: "AUTHORITY_MISSING",
      message: `cannot read the certificate authority in ${folder}`,
      reaction: "stop",
      hint: "Run this where `splitsite init` was run, or name the folder with --authority.",
      cause,
    });
  }
}

/**
 * Writes a new file; OperationalError `FILE_EXISTS` when there is one. `secret`: mode 0600 from the first instant,
 * in a folder of mode 0700 if it has to be made.
 */
export async function writeNew(path: string, text: string, secret: boolean): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  try {
    const file = await open(path, "wx", secret ? 0o600 : 0o644);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (cause) {
    if (errorCode(cause) !== "EEXIST") throw cause;
    throw new OperationalError({
      code: "FILE_EXISTS",
      message: `${path} exists already`,
      reaction: "refuse",
      hint: "Nothing is overwritten: move it away first, or choose another folder.",
      cause,
    });
  }
}

/** Replaces a certificate and its key. Both new files are whole on disk before either takes its place. */
export async function replacePair(certPath: string, keyPath: string, pair: KeyedCertificate): Promise<void> {
  const suffix = `.new-${process.pid}`;
  await writeNew(`${keyPath}${suffix}`, pair.keyPem, true);
  await writeNew(`${certPath}${suffix}`, pair.certPem, false);
  await rename(`${keyPath}${suffix}`, keyPath);
  await rename(`${certPath}${suffix}`, certPath);
}

export async function fileExists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (errorCode(error) === "ENOENT") return false;
    throw error;
  }
}

/** What a certificate says, ready for JSON; no key material. */
export interface CertificateFacts {
  readonly file: string;
  readonly subject: string;
  readonly issuer: string;
  readonly sites: readonly string[];
  readonly names: readonly string[];
  readonly notBefore: string;
  readonly notAfter: string;
  readonly daysLeft: number;
  readonly sha256: string;
}

export async function readCertificate(path: string): Promise<X509Certificate> {
  try {
    return new X509Certificate(await readFile(path));
  } catch (cause) {
    throw new OperationalError({
      code: "CERTIFICATE_UNREADABLE",
      message: `cannot read the certificate ${path}`,
      reaction: "stop",
      hint: "Make it with `splitsite certs issue`, or correct the path in the configuration.",
      cause,
    });
  }
}

export function certificateFacts(
  file: string,
  certificate: X509Certificate,
  nowMs: number,
): CertificateFacts {
  const altNames = certificate.subjectAltName;
  const until = Date.parse(certificate.validTo);
  return {
    file,
    subject: certificate.subject.replaceAll("\n", ", "),
    issuer: certificate.issuer.replaceAll("\n", ", "),
    sites: sitesInAltNames(altNames),
    names: (altNames ?? "").split(", ").filter((name) => name !== "" && !name.startsWith("URI:")),
    notBefore: new Date(certificate.validFrom).toISOString(),
    notAfter: new Date(until).toISOString(),
    daysLeft: Math.floor((until - nowMs) / 86_400_000),
    sha256: certificate.fingerprint256.replaceAll(":", "").toLowerCase(),
  };
}
