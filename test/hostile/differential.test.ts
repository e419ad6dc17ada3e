/**
 * The same bytes to this server, nbdkit and qemu-nbd: what they make of them must agree, or the difference must be one
 * that was looked at. A peer that dies of a script is that peer's failure, told as such, and is started again.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { memoryExport, RawClient, type Rig, startRig } from "../block/nbd-rig.ts";
import * as wire from "../protocol/nbd/wire.ts";
import { CMD, REP } from "../protocol/nbd/wire.ts";
import { Child } from "../support/child.ts";
import type { NbdAddress } from "../support/nbd-client.ts";
import { SeededRandom } from "../support/seeded.ts";
import { findTool, requireTools } from "../support/tools.ts";
import { waitForSocket } from "../support/wait.ts";
import { differences, type PeerName } from "./differences.ts";
import { type Outcome, runScript } from "./differential.ts";
import { exportBytes, exportName, requests, type Script, scripts } from "./scripts.ts";

const seed = Number(process.env["SEED"] ?? 20_260_801);
const sequences = Number(process.env["SPLITSITE_DIFFERENTIAL_SEQUENCES"] ?? 40);

/** A server of somebody else, watched by its process id. */
class Peer {
  readonly path: string;
  readonly #folder: string;
  readonly #name: PeerName;
  #child: Child | undefined;
  /** What it died of. */
  readonly deaths: string[] = [];

  constructor(folder: string, name: PeerName) {
    this.#folder = folder;
    this.#name = name;
    this.path = join(folder, `${name}.sock`);
  }

  async #start(): Promise<void> {
    rmSync(this.path, { force: true });
    const disk = join(this.#folder, "disk.img");
    if (this.#name === "qemu-nbd") writeFileSync(disk, Buffer.alloc(exportBytes));
    const args =
      this.#name === "nbdkit"
        ? ["-f", "-U", this.path, "memory", String(exportBytes)]
        : ["-k", this.path, "-t", "-e", "32", "-x", exportName, "-f", "raw", disk];
    this.#child = new Child(this.#name, this.#name, args);
    await waitForSocket({ path: this.path }, this.#child.exited);
  }

  async address(): Promise<NbdAddress> {
    if (this.#child?.running !== true) await this.#start();
    return { path: this.path };
  }

  /** Notes its death if it died of `script`; true when it did. Its end may be a moment behind the connection's. */
  async died(script: string, waitMs = 0): Promise<boolean> {
    if (this.#child?.running === true)
      await Promise.race([this.#child.exited, new Promise((resolve) => setTimeout(resolve, waitMs))]);
    if (this.#child === undefined || this.#child.running) return false;
    this.deaths.push(`${script}: ${JSON.stringify(await this.#child.exited)}`);
    return true;
  }

  async stop(): Promise<void> {
    await this.#child?.kill();
  }
}

/** `77:UNSUP 77:UNSUP` as `77:UNSUP x2`. */
function shortened(text: string): string {
  const words: { word: string; count: number }[] = [];
  for (const word of text.split(" ")) {
    const last = words.at(-1);
    if (last?.word === word) last.count += 1;
    else words.push({ word, count: 1 });
  }
  return words.map(({ word, count }) => (count === 1 ? word : `${word} x${count}`)).join(" ");
}

describe("this server beside others", () => {
  let rig: Rig;
  let ours: NbdAddress;
  const folder = mkdtempSync(join(tmpdir(), "splitsite-differential-"));
  const peers: Readonly<Record<PeerName, Peer>> = {
    nbdkit: new Peer(folder, "nbdkit"),
    "qemu-nbd": new Peer(folder, "qemu-nbd"),
  };

  before(async () => {
    rig = await startRig({ [exportName]: memoryExport(exportBytes) });
    assert.ok(rig.address.kind === "tcp");
    ours = { host: rig.address.host, port: rig.address.port };
  });
  after(async () => {
    for (const peer of Object.values(peers)) await peer.stop();
    await rig.server.close(0);
    rmSync(folder, { recursive: true, force: true });
  });

  test("every listed difference names a script, once", () => {
    const names = new Set(scripts.map((script) => script.name));
    assert.equal(names.size, scripts.length);
    const keys = differences.map(({ script, peer }) => `${peer}: ${script}`);
    assert.equal(new Set(keys).size, keys.length);
    for (const { script, reason } of differences) {
      assert.ok(names.has(script), script);
      assert.ok(reason.length > 10);
    }
  });

  /** What this server made of each script. */
  const oursOf = new Map<string, string>();

  test("every script has an end here: nothing waits but what sent half of something", async () => {
    for (const script of scripts) {
      const { text } = await runScript(ours, script);
      oursOf.set(script.name, shortened(text));
      if (script.name.startsWith("H02")) continue;
      assert.ok(text.endsWith("in step") || text.endsWith("closed"), `${script.name}: ${text}`);
    }
    await rig.drained();
    assert.equal(rig.catalog.opened, rig.catalog.closed);
  });

  for (const name of ["nbdkit", "qemu-nbd"] as const) {
    const skip = requireTools(name);

    test(`${name} and we agree but where reviewed, ${scripts.length} scripts`, { skip }, async (t) => {
      const peer = peers[name];
      const wrong: string[] = [];
      let compared = 0;
      for (const script of scripts) {
        const mine = oursOf.get(script.name) ?? "not run";
        const theirs = shortened((await runScript(await peer.address(), script)).text);
        if (await peer.died(script.name, mine === theirs ? 0 : 300)) continue;
        compared += 1;
        const known = differences.find((one) => one.peer === name && one.script === script.name);
        if (mine === theirs) {
          if (known !== undefined && known.sometimes !== true)
            wrong.push(`${script.name}: no difference any more: ${mine}`);
        } else if (known === undefined || known.ours !== mine) {
          wrong.push(`${script.name}: ours "${mine}", theirs "${theirs}"`);
        } else if (known.theirs !== theirs) {
          t.diagnostic(
            `${script.name}: this release of ${name} says "${theirs}", reviewed was "${known.theirs}"`,
          );
        }
      }
      for (const death of peer.deaths) t.diagnostic(`peer failure: ${name} died of ${death}`);
      assert.deepEqual(wrong, []);
      assert.ok(compared >= scripts.length - 3, `${compared} compared`);
    });
  }

  /** Writes, zeroes and reads that touch no block twice, so that their order does not matter. */
  function legalSequence(index: number): Script {
    const random = new SeededRandom(seed, index);
    const slots = exportBytes / 8192;
    const free = Array.from({ length: slots }, (_, slot) => slot);
    const fields: wire.RequestFields[] = [];
    const count = 5 + random.below(40);
    for (let at = 0; at < count; at += 1) {
      const [slot] = free.splice(random.below(free.length), 1);
      const start = random.below(16);
      const sectors = 1 + random.below(16 - start);
      const offset = slot! * 8192 + start * 512;
      const length = sectors * 512;
      const kind = random.below(4);
      if (kind === 0) fields.push({ command: CMD.READ, offset, length });
      else if (kind === 1) fields.push({ command: CMD.ZEROES, flags: random.below(2) * 2, offset, length });
      else
        fields.push({
          command: CMD.WRITE,
          flags: random.below(2),
          offset,
          data: Buffer.alloc(length, 1 + random.below(255)),
        });
      if (random.chance(0.1)) fields.push({ command: CMD.FLUSH });
    }
    return requests(`sequence ${index}`, fields);
  }

  const present = (["nbdkit", "qemu-nbd"] as const).filter((name) => findTool(name) !== undefined);
  test(`seed ${seed}: ${sequences} sequences of legal requests read the same everywhere`, {
    skip: present.length === 0 ? requireTools("nbdkit", "qemu-nbd") : false,
  }, async () => {
    // Whatever the scripts before left there.
    const blank = requests("blank", [{ command: CMD.ZEROES, length: exportBytes }]);
    await runScript(ours, blank);
    for (const name of present) await runScript(await peers[name].address(), blank);
    const whole = requests("whole", [{ command: CMD.READ, length: exportBytes }]);
    let readsCompared = 0;
    for (let index = 0; index < sequences; index += 1) {
      const script = index === sequences - 1 ? whole : legalSequence(index);
      const mine = await runScript(ours, script);
      for (const name of present) {
        const theirs: Outcome = await runScript(await peers[name].address(), script);
        assert.equal(theirs.text, mine.text, `${name}, sequence ${index}`);
        for (const [cookie, data] of mine.reads) {
          assert.ok(
            theirs.reads.get(cookie)?.equals(data) === true,
            `${name}, sequence ${index}, read ${cookie}`,
          );
          readsCompared += 1;
        }
      }
    }
    assert.ok(readsCompared > sequences);
  });

  test("T23 pipelined READs and a sudden end: we stand, whatever becomes of a peer", async (t) => {
    const flood = Buffer.concat(
      Array.from({ length: 1_000 }, (_, cookie) =>
        wire.request({ command: CMD.READ, cookie, length: 65_536 }),
      ),
    );
    const attack = async (address: NbdAddress): Promise<void> => {
      const client = await RawClient.connect(
        "path" in address ? { kind: "unix", path: address.path } : { kind: "tcp", ...address },
      );
      if ((await client.go(exportName)) === REP.ACK) {
        client.socket.pause();
        await new Promise<void>((resolve) => client.socket.write(flood, () => resolve()));
      }
      client.destroy();
    };
    const name = "T23";
    for (let round = 0; round < 10; round += 1) {
      await attack(ours);
      for (const each of present) {
        // A peer that died in between refuses the connection: its death is noted below.
        await attack(await peers[each].address()).catch(() => undefined);
        await peers[each].died(name);
      }
    }
    for (const each of present) {
      const deaths = peers[each].deaths.filter((death) => death.startsWith(name));
      if (deaths.length > 0)
        t.diagnostic(`peer failure: ${each} died ${deaths.length} times of ${deaths[0]}`);
    }
    await rig.drained();
    assert.equal(rig.catalog.opened, rig.catalog.closed);
    assert.equal(rig.server.stats.requestMemoryBytes, 0);
  });
});
