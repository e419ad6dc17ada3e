/**
 * Certificates for tests, made in memory: a private authority and leaves with every fault a server must notice. P-256
 * keys, so that making dozens costs nothing. Key material here protects nothing.
 */
import "reflect-metadata";
import { webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";

x509.cryptoProvider.set(webcrypto as unknown as Parameters<typeof x509.cryptoProvider.set>[0]);
const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
type Keys = Parameters<typeof x509.X509CertificateGenerator.createSelfSigned>[0]["keys"];

const dayMs = 86_400_000;

/** PEM of a certificate and its key, and of the authority that vouches for peers. */
export interface TestIdentity {
  readonly ca: Buffer;
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly serial: string;
}

export interface LeafOptions {
  readonly commonName: string;
  readonly dns?: readonly string[];
  readonly uris?: readonly string[];
  /** Default: both. */
  readonly usage?: "client" | "server" | "both";
  /** Validity relative to now; default a day to either side. */
  readonly fromMs?: number;
  readonly toMs?: number;
  /** Signed by its own key instead of the authority. */
  readonly selfSigned?: boolean;
}

async function newKeys(): Promise<Keys> {
  return (await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"])) as unknown as Keys;
}

async function keyPem(keys: Keys): Promise<Buffer> {
  const der = await webcrypto.subtle.exportKey("pkcs8", keys.privateKey as unknown as webcrypto.CryptoKey);
  return Buffer.from(x509.PemConverter.encode(der, "PRIVATE KEY"));
}

/** A certificate authority. */
export class TestAuthority {
  readonly #keys: Keys;
  readonly #certificate: x509.X509Certificate;
  #serial = 1;

  constructor(keys: Keys, certificate: x509.X509Certificate) {
    this.#keys = keys;
    this.#certificate = certificate;
  }

  get ca(): Buffer {
    return Buffer.from(this.#certificate.toString("pem"));
  }

  async issue(options: LeafOptions): Promise<TestIdentity> {
    const keys = await newKeys();
    this.#serial += 1;
    const serial = this.#serial.toString(16).padStart(4, "0");
    const names: x509.JsonGeneralNames = [
      ...(options.dns ?? []).map((value) => ({ type: "dns" as const, value })),
      ...(options.uris ?? []).map((value) => ({ type: "url" as const, value })),
    ];
    const usage = options.usage ?? "both";
    const purposes = [
      ...(usage === "client" ? [] : [x509.ExtendedKeyUsage.serverAuth]),
      ...(usage === "server" ? [] : [x509.ExtendedKeyUsage.clientAuth]),
    ];
    const certificate = await x509.X509CertificateGenerator.create({
      serialNumber: serial,
      subject: `CN=${options.commonName}`,
      issuer: options.selfSigned === true ? `CN=${options.commonName}` : this.#certificate.subject,
      notBefore: new Date(Date.now() + (options.fromMs ?? -dayMs)),
      notAfter: new Date(Date.now() + (options.toMs ?? dayMs)),
      signingAlgorithm: algorithm,
      publicKey: keys.publicKey,
      signingKey: options.selfSigned === true ? keys.privateKey : this.#keys.privateKey,
      extensions: [
        new x509.BasicConstraintsExtension(false),
        new x509.ExtendedKeyUsageExtension(purposes as [string, ...string[]]),
        ...(names.length > 0 ? [new x509.SubjectAlternativeNameExtension(names)] : []),
      ],
    });
    return { ca: this.ca, cert: Buffer.from(certificate.toString("pem")), key: await keyPem(keys), serial };
  }

  /** Revocation list, PEM, of the given serial numbers. */
  async revoke(serials: readonly string[]): Promise<Buffer> {
    const list = await x509.X509CrlGenerator.create({
      issuer: this.#certificate.subject,
      thisUpdate: new Date(Date.now() - dayMs),
      nextUpdate: new Date(Date.now() + dayMs),
      signingAlgorithm: algorithm,
      signingKey: this.#keys.privateKey,
      entries: serials.map((serialNumber) => ({ serialNumber, revocationDate: new Date(Date.now() - 1000) })),
    });
    return Buffer.from(x509.PemConverter.encode(list.rawData, "X509 CRL"));
  }
}

export async function testAuthority(name = "splitsite test authority"): Promise<TestAuthority> {
  const keys = await newKeys();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: "01",
    name: `CN=${name}`,
    notBefore: new Date(Date.now() - 2 * dayMs),
    notAfter: new Date(Date.now() + 2 * dayMs),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 1, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
    ],
  });
  return new TestAuthority(keys, certificate);
}
