/** The digest of a point against a second, naive one; the worked example of its page; and its record, read back or refused. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import {
  parsePointRecord,
  pointDigest,
  type VolumeDigest,
  VolumeDigester,
} from "../../protocol/point-digest.ts";
import { SeededRandom, seedFromEnvironment } from "../support/seeded.ts";
import { repositoryPath } from "../support/tree.ts";

const seed = seedFromEnvironment();
const mebibyte = 1 << 20;
const lineage = "00112233-4455-6677-8899-aabbccddeeff";
const chain = "c4".repeat(32);

const sha = (...parts: readonly Uint8Array[]): Buffer =>
  createHash("sha256").update(Buffer.concat(parts)).digest();

/** As the page says it, and slowly. */
function naiveVolume(content: Buffer): Buffer {
  const chunks: Buffer[] = [];
  for (let chunk = 0; chunk < content.length; chunk += mebibyte) {
    const leaves: Buffer[] = [];
    const end = Math.min(content.length, chunk + mebibyte);
    for (let leaf = chunk; leaf < end; leaf += 4096)
      leaves.push(sha(content.subarray(leaf, Math.min(end, leaf + 4096))).subarray(0, 16));
    chunks.push(sha(...leaves));
  }
  return sha(...chunks);
}

function naivePoint(sequence: number, volumes: ReadonlyMap<number, Buffer>): string {
  const number = (value: number, bytes: number): Buffer => {
    const out = Buffer.alloc(bytes);
    out.writeUIntBE(value, Math.max(0, bytes - 6), Math.min(bytes, 6));
    return out;
  };
  const numbers = [...volumes.keys()].sort((a, b) => a - b);
  return sha(
    Buffer.from("splitsite point 1\n"),
    Buffer.from(lineage.replaceAll("-", ""), "hex"),
    number(sequence, 8),
    Buffer.from(chain, "hex"),
    number(volumes.size, 2),
    ...numbers.flatMap((each) => {
      const content = volumes.get(each)!;
      return [number(each, 2), number(content.length, 8), naiveVolume(content)];
    }),
  ).toString("hex");
}

/** Through the product's own, chunks of zeroes as holes. */
function digestOf(content: Buffer, holes: boolean): string {
  const digester = new VolumeDigester(content.length);
  while (digester.nextBytes > 0) {
    const chunk = content.subarray(digester.offset, digester.offset + digester.nextBytes);
    if (holes && chunk.every((byte) => byte === 0)) digester.addZeroes();
    else digester.add(chunk);
  }
  return digester.end();
}

function rows(volumes: ReadonlyMap<number, Buffer>): VolumeDigest[] {
  return [...volumes].map(([number, content]) => ({
    number,
    name: `v${number}`,
    sizeBytes: content.length,
    digest: digestOf(content, true),
  }));
}

test(`it is what the page says, holes or not, in any order of the volumes (SEED=${seed})`, () => {
  const random = new SeededRandom(seed, 61);
  for (let round = 0; round < 12; round += 1) {
    const volumes = new Map<number, Buffer>();
    for (let count = 1 + random.below(3); count > 0; count -= 1) {
      const content = Buffer.alloc((1 + random.below(6_000)) * 512);
      for (let at = random.below(content.length); at < content.length; at += 1 + random.below(mebibyte))
        content[at] = 1 + random.below(255);
      volumes.set(random.below(65_536), content);
    }
    for (const content of volumes.values())
      assert.equal(digestOf(content, true), digestOf(content, false), "a hole reads as zeroes");
    const sequence = random.below(2 ** 40);
    const point = { lineage, sequence, chain, volumes: random.shuffle(rows(volumes)) };
    assert.equal(pointDigest(point), naivePoint(sequence, volumes));
  }
});

test("every input counts", () => {
  const volumes = rows(new Map([[0, Buffer.alloc(4096)]]));
  const point = { lineage, sequence: 812, chain, volumes };
  const [volume] = volumes;
  const others = [
    { ...point, sequence: 813 },
    { ...point, chain: "c5".repeat(32) },
    { ...point, lineage: lineage.replace("00", "01") },
    { ...point, volumes: [{ ...volume!, number: 1 }] },
    { ...point, volumes: [{ ...volume!, sizeBytes: 8192 }] },
    { ...point, volumes: [{ ...volume!, digest: "00".repeat(32) }] },
  ];
  assert.equal(new Set([point, ...others].map(pointDigest)).size, others.length + 1);
  assert.equal(pointDigest({ ...point, volumes: [{ ...volume!, name: "other" }] }), pointDigest(point));
});

test("the worked example of the page", () => {
  const page = readFileSync(repositoryPath("docs/formats/point-digest.md"), "utf8");
  const [, text] = /^```hex point-digest\n([\s\S]*?)^```$/m.exec(page)!;
  const [data, log, point] = text!.split("\n").map((line) => line.split("  ")[0]!);
  const content = Buffer.alloc(mebibyte + 512);
  content.fill(0x5a, 0, 4096);
  const volumes = new Map([
    [0, content],
    [1, Buffer.alloc(4096)],
  ]);
  assert.deepEqual(
    [...volumes.values()].map((each) => naiveVolume(each).toString("hex")),
    [data, log],
  );
  assert.equal(naivePoint(812, volumes), point);
  assert.equal(pointDigest({ lineage, sequence: 812, chain, volumes: rows(volumes) }), point);
});

test("a digester takes every chunk in its length, once", () => {
  const digester = new VolumeDigester(mebibyte + 512);
  assert.throws(() => digester.add(new Uint8Array(512)), assert.AssertionError);
  assert.throws(() => digester.end(), assert.AssertionError);
  digester.addZeroes();
  digester.add(new Uint8Array(512));
  assert.throws(() => digester.addZeroes(), assert.AssertionError);
  assert.equal(digester.end(), naiveVolume(Buffer.alloc(mebibyte + 512)).toString("hex"));
});

test("a record is read back, and refused where a field is not what it should be", () => {
  const volumes = rows(new Map([[0, Buffer.alloc(4096)]]));
  const content = { group: "erp", lineage, sequence: 812, time: null, chain, volumes };
  const record = { version: 1, volume: "v0", ...content, digest: pointDigest(content) } as const;
  assert.deepEqual(parsePointRecord(JSON.parse(JSON.stringify(record))), record);
  const wrong: readonly object[] = [
    { ...record, version: 2 },
    { ...record, volume: "../x" },
    { ...record, sequence: -1 },
    { ...record, chain: "c4" },
    { ...record, digest: "C4".repeat(32) },
    { ...record, volumes: [] },
    { ...record, volumes: [{ ...volumes[0], digest: null }] },
  ];
  for (const value of wrong) assert.throws(() => parsePointRecord(value), { code: "MALFORMED" });
});
