/**
 * The private certificate authority of two sites: makes its key and certificate, and issues leaf certificates. The
 * only importer of @peculiar/x509. Works on PEM texts in memory; where they are kept is files.ts's business.
 */
// The library fails at its first use when this is not loaded before it.
import "reflect-metadata";
import { randomBytes, webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";
import { siteUriPrefix } from "../../runtime/peer-identity.ts";

/** A certificate and its private key (PKCS #8), PEM. */
export interface KeyedCertificate {
  readonly certPem: string;
  readonly keyPem: string;
}

export interface Leaf {
  readonly commonName: string;
  /** Site whose identity this is; null for an NBD client, which is no site. */
  readonly site: string | null;
  /** Names and addresses under which a server is reached; empty for a client. */
  readonly hosts: readonly string[];
  /** From now on, days. */
  readonly days: number;
}

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const dayMs = 86_400_000;
/** Certificates are valid this long before they are made: the other host's clock may be behind. */
const clockSlackMs = 3_600_000;
/** The authority outlives every certificate it issues. */
export const authorityDays = 3_650;
export const leafDays = 825;

export async function createAuthority(): Promise<KeyedCertificate> {
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const now = Date.now();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: newSerial(),
    name: "CN=splitsite private CA",
    notBefore: new Date(now - clockSlackMs),
    notAfter: new Date(now + authorityDays * dayMs),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certPem: pem(certificate), keyPem: await exportKey(keys.privateKey) };
}

/** A new key and its certificate. A site's serves and connects (both ends of the line), a client's only connects. */
export async function issueLeaf(authority: KeyedCertificate, leaf: Leaf): Promise<KeyedCertificate> {
  const issuer = new x509.X509Certificate(authority.certPem);
  const signingKey = await importKey(authority.keyPem);
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const now = Date.now();
  const usages = leaf.site === null ? [clientAuth] : [serverAuth, clientAuth];
  const names: x509.JsonGeneralNames = [
    ...(leaf.site === null ? [] : [{ type: "url" as const, value: `${siteUriPrefix}${leaf.site}` }]),
    ...leaf.hosts.map((host) => ({
      type: isIpAddress(host) ? ("ip" as const) : ("dns" as const),
      value: host,
    })),
    // A client is known by its name alone; as a DNS name it stands where every tool shows it.
    ...(leaf.site === null ? [{ type: "dns" as const, value: leaf.commonName }] : []),
  ];
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: newSerial(),
    subject: `CN=${leaf.commonName}`,
    issuer: issuer.subject,
    notBefore: new Date(now - clockSlackMs),
    notAfter: new Date(Math.min(now + leaf.days * dayMs, issuer.notAfter.getTime())),
    signingAlgorithm: algorithm,
    publicKey: keys.publicKey,
    signingKey,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      // Not critical: older QEMU asks for key encipherment, which has no meaning for an elliptic key, if it is.
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, false),
      new x509.ExtendedKeyUsageExtension(usages),
      new x509.SubjectAlternativeNameExtension(names),
      await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
    ],
  });
  return { certPem: pem(certificate), keyPem: await exportKey(keys.privateKey) };
}

const serverAuth = x509.ExtendedKeyUsage.serverAuth;
const clientAuth = x509.ExtendedKeyUsage.clientAuth;

function isIpAddress(host: string): boolean {
  return host.includes(":") || /^[0-9.]+$/.test(host);
}

/** 127 random bits, positive. */
function newSerial(): string {
  const bytes = randomBytes(16);
  bytes[0] = (bytes[0] ?? 0) & 0x7f;
  return bytes.toString("hex");
}

function pem(certificate: x509.X509Certificate): string {
  return `${certificate.toString("pem")}\n`;
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  return `${x509.PemConverter.encode(await webcrypto.subtle.exportKey("pkcs8", key), "PRIVATE KEY")}\n`;
}

async function importKey(keyPem: string): Promise<webcrypto.CryptoKey> {
  return webcrypto.subtle.importKey("pkcs8", x509.PemConverter.decodeFirst(keyPem), algorithm, false, [
    "sign",
  ]);
}
