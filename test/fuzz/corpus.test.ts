/** Every kept input keeps every rule: captured clients, valid encodings, and whatever once broke one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { readCorpus } from "./corpus.ts";
import { fuzzTargets } from "./targets.ts";

for (const target of fuzzTargets) {
  test(`${target.name}: kept inputs and seeds replay, each to the same outcome again`, async () => {
    const inputs = [...(await target.seeds()), ...readCorpus(target.name).map(({ bytes }) => bytes)];
    assert.ok(inputs.length > 0);
    for (const input of inputs) {
      const before = Buffer.from(input);
      assert.equal(target.run(input), target.run(Buffer.from(before)));
      assert.ok(before.equals(input), "a decoder changed its input");
    }
  });
}

test("valid encodings that are kept are taken: what was once written can be read", () => {
  for (const target of fuzzTargets) {
    const valid = readCorpus(target.name).filter(({ name }) => name.startsWith("valid-"));
    for (const { name, bytes } of valid) assert.match(target.run(bytes), /^[a-z]/, `${target.name}/${name}`);
  }
  for (const name of ["record", "frame", "batch", "head", "watermark", "marker", "control", "documents"])
    assert.ok(
      readCorpus(name).some((input) => input.name.startsWith("valid-")),
      name,
    );
});

test("conversations of real clients are kept, and all of them reach the transmission phase or say why not", () => {
  const conversations = readCorpus("nbd-session");
  const requests = readCorpus("nbd-requests");
  assert.ok(conversations.length >= 15 && requests.length >= 15);
  const clients = new Set(conversations.map(({ name }) => name.slice(0, name.lastIndexOf("-"))));
  for (const client of ["qemu-io", "qemu-img-in", "nbdcopy-in", "nbdinfo", "fio"])
    assert.ok(clients.has(client), client);
});
