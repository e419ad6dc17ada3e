/**
 * Who may do what at the gateway's port on the line: every class of certificate against every endpoint. Only the site
 * that owns or may own the group is let through; every other certificate of the same authority is told 403 before its
 * body is read, and what the authority did not vouch for never gets as far as a request.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { wanRoutes } from "../../protocol/control.ts";
import { Source, StandbySite } from "../gateway/standby-site.ts";
import { type TestIdentity, testAuthority } from "../support/certificates.ts";
import { identityFiles, RawHttpPeer, statusesIn } from "./http-peer.ts";

const dayMs = 86_400_000;
const authority = await testAuthority();
const stranger = await testAuthority("another authority");
const uri = (name: string): readonly string[] => [`splitsite:site:${name}`];
const source = new Source(2);

/** What must come of a class: no request at all, a refusal of the group, or passage. */
type Expected = "no TLS" | "forbidden" | "allowed";

interface Class {
  readonly identity: Partial<TestIdentity>;
  readonly expected: Expected;
  readonly maxVersion?: "TLSv1.1" | "TLSv1.2";
}

const primary = await authority.issue({ commonName: "primary", uris: uri("primary") });
const trusting = async (made: Promise<TestIdentity>): Promise<TestIdentity> => ({
  ...(await made),
  ca: authority.ca,
});
const classes: Readonly<Record<string, Class>> = {
  "the owner's site": { identity: primary, expected: "allowed" },
  "the owner's site, TLS 1.2": { identity: primary, expected: "allowed", maxVersion: "TLSv1.2" },
  "the owner's site, TLS 1.1": { identity: primary, expected: "no TLS", maxVersion: "TLSv1.1" },
  "no certificate": { identity: { ca: authority.ca }, expected: "no TLS" },
  "another authority, the right name": {
    identity: await trusting(stranger.issue({ commonName: "primary", uris: uri("primary") })),
    expected: "no TLS",
  },
  "self-signed": {
    identity: await trusting(
      authority.issue({ commonName: "primary", uris: uri("primary"), selfSigned: true }),
    ),
    expected: "no TLS",
  },
  expired: {
    identity: await authority.issue({
      commonName: "primary",
      uris: uri("primary"),
      fromMs: -dayMs,
      toMs: -dayMs / 2,
    }),
    expected: "no TLS",
  },
  "not yet valid": {
    identity: await authority.issue({
      commonName: "primary",
      uris: uri("primary"),
      fromMs: dayMs / 2,
      toMs: dayMs,
    }),
    expected: "no TLS",
  },
  "for servers only": {
    identity: await authority.issue({ commonName: "primary", uris: uri("primary"), usage: "server" }),
    expected: "no TLS",
  },
  "a third site": {
    identity: await authority.issue({ commonName: "third", uris: uri("third") }),
    expected: "forbidden",
  },
  "this site itself": {
    identity: await authority.issue({ commonName: "dr", uris: uri("dr") }),
    expected: "forbidden",
  },
  "an NBD client": {
    identity: await authority.issue({ commonName: "host-a", dns: ["host-a"], usage: "client" }),
    expected: "forbidden",
  },
  "the site's name as common name only": {
    identity: await authority.issue({ commonName: "primary" }),
    expected: "forbidden",
  },
  "the site's URI as a DNS name": {
    identity: await authority.issue({ commonName: "x", dns: ["splitsite-site-primary", "primary"] }),
    expected: "forbidden",
  },
  "a URI that only begins like it": {
    identity: await authority.issue({ commonName: "x", uris: uri("primary-2") }),
    expected: "forbidden",
  },
  "a URI that holds it": {
    identity: await authority.issue({ commonName: "x", uris: ["x:y?, URI:splitsite:site:primary"] }),
    expected: "forbidden",
  },
  "the name in capitals": {
    identity: await authority.issue({ commonName: "x", uris: uri("PRIMARY") }),
    expected: "forbidden",
  },
};

const json = (body: unknown): Buffer => Buffer.from(JSON.stringify(body));
const endpoints: Readonly<Record<string, { method: string; path: string; body: Buffer }>> = {
  knowledge: { method: "GET", path: wanRoutes.group("erp"), body: Buffer.alloc(0) },
  hello: { method: "POST", path: wanRoutes.hello("erp"), body: json(source.hello()) },
  heartbeat: { method: "POST", path: wanRoutes.heartbeat("erp"), body: json(source.heartbeat()) },
  batches: { method: "POST", path: wanRoutes.batches("erp"), body: Buffer.alloc(64) },
};

describe("who may do what at the line's port", () => {
  let site: StandbySite;

  before(async () => {
    site = await StandbySite.make();
    const server = await authority.issue({ commonName: "dr", uris: uri("dr") });
    site.tls["dr"] = identityFiles(site.directory, "server", server);
    site.tls["primary"] = identityFiles(site.directory, "owner", primary);
    await site.start();
  });
  after(() => site?.remove());

  async function ask(one: Class, method: string, path: string, body: Buffer): Promise<string> {
    const { maxVersion } = one;
    const peer = await RawHttpPeer.connect(
      site.port,
      one.identity,
      maxVersion === undefined ? {} : { maxVersion },
    );
    if (peer === undefined) return "";
    const head = `${method} ${path} HTTP/1.1\r\nHost: dr\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n`;
    return peer.exchange(head, body);
  }

  // The owner's site is last: its greeting makes the group known.
  const ordered = Object.entries(classes).toSorted(
    ([, one], [, other]) => Number(one.expected === "allowed") - Number(other.expected === "allowed"),
  );
  for (const [name, one] of ordered) {
    test(`S10 ${name}: ${one.expected} at every endpoint`, async () => {
      for (const [endpoint, { method, path, body }] of Object.entries(endpoints)) {
        const reply = await ask(one, method, path, body);
        const statuses = statusesIn(reply);
        if (one.expected === "no TLS") assert.deepEqual(statuses, [], `${endpoint}: ${reply}`);
        else if (one.expected === "forbidden") assert.deepEqual(statuses, [403], `${endpoint}: ${reply}`);
        else assert.ok(statuses.length === 1 && statuses[0] !== 403, `${endpoint}: ${reply}`);
        if (one.expected !== "allowed") assert.equal(site.role!.knows("erp").known, false);
      }
      if (one.expected === "no TLS") return;
      const foreign = await ask(one, "GET", wanRoutes.group("crm"), Buffer.alloc(0));
      assert.deepEqual(statusesIn(foreign), [403], "a group this site has no part in");
      assert.deepEqual(statusesIn(await ask(one, "GET", "/v1/status", Buffer.alloc(0))), [404]);
    });
  }

  test("S10 the owner's certificate does not cover another owner's token", async () => {
    const foreign = json({ ...source.hello(), token: { epoch: 9, owner: "third" } });
    const reply = await ask(classes["the owner's site"]!, "POST", wanRoutes.hello("erp"), foreign);
    assert.deepEqual(statusesIn(reply), [403]);
  });
});
