/** TLS cases of the catalogue (S..) over real sockets: who gets in, under which name, and what plain text can do. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { parseSubjectAltNames } from "../../block/nbd-tls.ts";
import * as wire from "../protocol/nbd/wire.ts";
import { CMD, OPT, REP } from "../protocol/nbd/wire.ts";
import { testAuthority } from "../support/certificates.ts";
import { HandClock, memoryExport, type Rig, startRig, type TestExport } from "./nbd-rig.ts";

const authority = await testAuthority();
const serverIdentity = await authority.issue({ commonName: "server", dns: ["localhost"] });
const host = await authority.issue({
  commonName: "host-a",
  dns: ["host-a.example"],
  uris: ["splitsite:site:primary"],
});
const tls = {
  ca: authority.ca,
  cert: serverIdentity.cert,
  key: serverIdentity.key,
  requireClientCertificate: true,
} as const;
const dayMs = 86_400_000;

async function withRig(
  exports: Readonly<Record<string, TestExport>>,
  options: Parameters<typeof startRig>[1],
  run: (rig: Rig) => Promise<void>,
): Promise<void> {
  const rig = await startRig(exports, { tls, ...options });
  try {
    await run(rig);
    await rig.drained();
    assert.equal(rig.catalog.opened, rig.catalog.closed);
    assert.equal(rig.server.stats.requestMemoryBytes, 0);
  } finally {
    await rig.server.close(0);
  }
}

describe("NBD over TLS", () => {
  test("S01 S03 before TLS nothing but STARTTLS and ABORT works, and the catalog is not asked", async () => {
    await withRig({ vol: memoryExport() }, {}, async (rig) => {
      const client = await rig.connect();
      await client.greet();
      for (const option of [wire.option(OPT.LIST), wire.info("vol"), wire.go("vol"), wire.option(99)]) {
        assert.equal((await client.option(option)).at(-1)?.type, REP.TLS_REQD);
      }
      assert.equal((await client.option(wire.option(OPT.ABORT))).at(-1)?.type, REP.ACK);
      await client.end();
      client.destroy();
      assert.equal(rig.catalog.clients.length, 0);
    });
  });

  test("reads and writes inside TLS, and the catalog learns the client's names", async () => {
    await withRig({ vol: memoryExport() }, {}, async (rig) => {
      const client = await rig.connect();
      assert.equal(await client.startTls(host), true);
      assert.equal(await client.go("vol", { greeted: true, structured: true }), REP.ACK);
      const data = Buffer.alloc(400 * 1024, 0x33);
      assert.equal((await client.request({ command: CMD.WRITE, data }))?.error, 0);
      const back = await client.request({ command: CMD.READ, flags: 4, length: data.length });
      assert.ok(back?.data.subarray(8).equals(data));
      const identity = rig.catalog.clients.at(-1);
      assert.deepEqual(
        { ...identity, certificateNames: identity?.certificateNames.toSorted() },
        {
          transport: "tcp",
          tls: true,
          address: "127.0.0.1",
          certificateNames: ["host-a", "host-a.example", "splitsite:site:primary"],
        },
      );
      client.send(wire.request({ command: CMD.DISC }));
      await client.end();
      client.destroy();
    });
  });

  test("S04 STARTTLS inside TLS is answered ERR_INVALID", async () => {
    await withRig({ vol: memoryExport() }, {}, async (rig) => {
      const client = await rig.connect();
      await client.startTls(host);
      assert.equal((await client.option(wire.option(OPT.STARTTLS))).at(-1)?.type, REP.INVALID);
      client.destroy();
    });
  });

  test("S06 what was negotiated in plain text is forgotten", async () => {
    await withRig({ vol: memoryExport() }, {}, async (rig) => {
      const client = await rig.connect();
      await client.greet();
      await client.option(wire.option(OPT.STRUCTURED));
      await client.option(wire.option(OPT.STARTTLS));
      assert.equal(await client.secure(host), true);
      const set = await client.option(wire.option(OPT.SET_META, wire.metaData("vol", ["base:allocation"])));
      assert.equal(set.at(-1)?.type, REP.INVALID);
      assert.equal(await client.go("vol", { greeted: true }), REP.ACK);
      assert.equal((await client.request({ command: CMD.READ, length: 512 }, 512))?.kind, "simple");
      client.destroy();
    });
  });

  test("S07 plain text behind STARTTLS in one segment disconnects", async () => {
    await withRig({ vol: memoryExport() }, {}, async (rig) => {
      const client = await rig.connect();
      await client.greeting();
      client.send(wire.clientFlags(), wire.option(OPT.STARTTLS), wire.option(OPT.LIST));
      await client.end();
      assert.deepEqual(client.stream.optionReplies(), []);
      assert.equal(rig.catalog.clients.length, 0);
      client.destroy();
    });
  });

  test("S08 plain text after the ACK disconnects", async () => {
    await withRig({ vol: memoryExport() }, {}, async (rig) => {
      const client = await rig.connect();
      await client.greet();
      await client.option(wire.option(OPT.STARTTLS));
      client.send(wire.option(OPT.LIST), wire.go("vol"), Buffer.alloc(600));
      await client.end();
      assert.equal(rig.catalog.clients.length, 0);
      client.destroy();
    });
  });

  test("S09 silence or a dribble after the ACK is closed at the handshake deadline", async () => {
    const clock = new HandClock();
    await withRig({ vol: memoryExport() }, { clock }, async (rig) => {
      for (const dribble of [false, true]) {
        const client = await rig.connect();
        await client.greet();
        await client.option(wire.option(OPT.STARTTLS));
        for (let second = 0; second < 9; second += 1) {
          // The first byte of a TLS record, then single bytes of its header's length.
          if (dribble) client.send(Uint8Array.of(second === 0 ? 0x16 : 0x03));
          clock.advance(1_000);
          await new Promise((resolve) => setImmediate(resolve));
        }
        clock.advance(1_001);
        await client.end();
        client.destroy();
        await rig.drained();
      }
    });
  });

  test("S10 certificates that do not hold are refused before any option", async () => {
    const stranger = await testAuthority("another authority");
    const revoked = await authority.issue({ commonName: "revoked" });
    const crl = await authority.revoke([revoked.serial]);
    const cases: Record<string, Parameters<Awaited<ReturnType<Rig["connect"]>>["startTls"]>> = {
      "no certificate": [{ ca: authority.ca }],
      "wrong authority": [{ ...(await stranger.issue({ commonName: "host-a" })), ca: authority.ca }],
      "self-signed": [await authority.issue({ commonName: "host-a", selfSigned: true })],
      expired: [await authority.issue({ commonName: "host-a", fromMs: -dayMs, toMs: -dayMs / 2 })],
      "not yet valid": [await authority.issue({ commonName: "host-a", fromMs: dayMs / 2, toMs: dayMs })],
      "server usage only": [await authority.issue({ commonName: "host-a", usage: "server" })],
      revoked: [revoked],
      "TLS 1.1": [host, { maxVersion: "TLSv1.1" }],
    };
    await withRig({ vol: memoryExport() }, { tls: { ...tls, crl } }, async (rig) => {
      for (const [name, parameters] of Object.entries(cases)) {
        const client = await rig.connect();
        const secured = await client.startTls(...parameters);
        if (secured) {
          // With TLS 1.3 the client's side is up before the server has judged its certificate.
          client.send(wire.option(OPT.LIST));
          assert.equal(await client.optionReply(), undefined, name);
        }
        await client.end();
        client.destroy();
      }
      assert.equal(rig.catalog.clients.length, 0, "no option was looked at");
      const good = await rig.connect();
      assert.equal(await good.startTls(host), true);
      assert.equal(await good.go("vol", { greeted: true }), REP.ACK);
      good.destroy();
      const old = await rig.connect();
      assert.equal(await old.startTls(host, { maxVersion: "TLSv1.2" }), true, "TLS 1.2 is served");
      assert.equal(await old.go("vol", { greeted: true }), REP.ACK);
      old.destroy();
    });
  });

  test("S10 S12 another name's export looks unknown at LIST, INFO and GO", async () => {
    const exports = {
      mine: { ...memoryExport(), allowed: ["host-a"] },
      theirs: { ...memoryExport(), allowed: ["host-b"] },
    };
    await withRig(exports, {}, async (rig) => {
      const client = await rig.connect();
      await client.startTls(host);
      const listed = await client.option(wire.option(OPT.LIST));
      assert.deepEqual(
        listed.slice(0, -1).map((reply) => reply.data.toString("utf8", 4)),
        ["mine"],
      );
      for (const ask of [wire.info, wire.go]) {
        const forbidden = await client.option(ask("theirs"));
        const unknown = await client.option(ask("nobody"));
        assert.deepEqual(forbidden, unknown);
        assert.equal(unknown.at(-1)?.type, REP.UNKNOWN);
      }
      assert.equal(rig.catalog.opened, 0);
      assert.equal(await client.go("mine", { greeted: true }), REP.ACK);
      client.destroy();
    });
  });

  test("rotation: new handshakes use the new material, old connections go on", async () => {
    const next = await testAuthority("next authority");
    const nextServer = await next.issue({ commonName: "server" });
    const nextHost = await next.issue({ commonName: "host-a" });
    await withRig({ vol: memoryExport() }, {}, async (rig) => {
      const before = await rig.connect();
      await before.startTls(host);
      await before.go("vol", { greeted: true });
      rig.server.setTls({
        ca: next.ca,
        cert: nextServer.cert,
        key: nextServer.key,
        requireClientCertificate: true,
      });
      assert.equal((await before.request({ command: CMD.FLUSH }))?.error, 0);
      const after = await rig.connect();
      assert.equal(await after.startTls(nextHost), true);
      assert.equal(await after.go("vol", { greeted: true }), REP.ACK);
      const stale = await rig.connect();
      assert.equal(
        await stale
          .startTls({ ...host, ca: next.ca })
          .then(async (up) => up && (await stale.option(wire.option(OPT.LIST))).length > 0),
        false,
      );
      for (const client of [before, after, stale]) client.destroy();
    });
  });

  test("a name cannot pass for two by holding a separator", () => {
    assert.deepEqual(parseSubjectAltNames("DNS:a.example, URI:splitsite:site:dr, IP Address:127.0.0.1"), [
      "a.example",
      "splitsite:site:dr",
      "127.0.0.1",
    ]);
    assert.deepEqual(parseSubjectAltNames('URI:"http://x/, DNS:victim", DNS:b'), [
      "http://x/, DNS:victim",
      "b",
    ]);
    assert.deepEqual(parseSubjectAltNames("othername:<unsupported>, DirName:x, DNS:c"), ["c"]);
    assert.deepEqual(parseSubjectAltNames(""), []);
  });
});
