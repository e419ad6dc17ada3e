/** A private CA and site certificates for tests: P-256, valid for a day, one folder per test. */
import "reflect-metadata";
import { webcrypto } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import * as x509 from "@peculiar/x509";
import type { TlsFiles } from "../../runtime/settings/types.ts";

x509.cryptoProvider.set(webcrypto as unknown as Parameters<typeof x509.cryptoProvider.set>[0]);
const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
type Keys = Parameters<typeof x509.X509CertificateGenerator.createSelfSigned>[0]["keys"];

async function newKeys(): Promise<Keys> {
  return (await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"])) as unknown as Keys;
}

async function keyPem(keys: Keys): Promise<string> {
  const der = await webcrypto.subtle.exportKey("pkcs8", keys.privateKey as unknown as webcrypto.CryptoKey);
  return x509.PemConverter.encode(der, "PRIVATE KEY");
}

export interface TestCa {
  /** Files of a certificate whose SAN URIs name `sites`, made in `directory` under `name`. */
  issue(directory: string, name: string, sites: readonly string[]): Promise<TlsFiles>;
}

export async function testCa(): Promise<TestCa> {
  const notBefore = new Date(Date.now() - 3_600_000);
  const notAfter = new Date(Date.now() + 86_400_000);
  const keys = await newKeys();
  const ca = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: "01",
    name: "CN=test CA",
    notBefore,
    notAfter,
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
    ],
  });
  let serial = 1;
  return {
    async issue(directory, name, sites) {
      serial += 1;
      const siteKeys = await newKeys();
      const cert = await x509.X509CertificateGenerator.create({
        serialNumber: serial.toString(16).padStart(2, "0"),
        subject: `CN=${name}`,
        issuer: ca.subject,
        notBefore,
        notAfter,
        signingAlgorithm: algorithm,
        publicKey: siteKeys.publicKey,
        signingKey: keys.privateKey,
        extensions: [
          new x509.ExtendedKeyUsageExtension([
            x509.ExtendedKeyUsage.serverAuth,
            x509.ExtendedKeyUsage.clientAuth,
          ]),
          new x509.SubjectAlternativeNameExtension([
            { type: "ip", value: "127.0.0.1" },
            { type: "dns", value: "localhost" },
            ...sites.map((site) => ({ type: "url" as const, value: `splitsite:site:${site}` })),
          ]),
        ],
      });
      const files = {
        ca: join(directory, `${name}-ca.pem`),
        cert: join(directory, `${name}.pem`),
        key: join(directory, `${name}.key`),
      };
      writeFileSync(files.ca, ca.toString("pem"));
      writeFileSync(files.cert, cert.toString("pem"));
      writeFileSync(files.key, await keyPem(siteKeys), { mode: 0o600 });
      return files;
    },
  };
}
