/** What a greeting says of the volume table while a change is under way: each row with what comes with it, or not at all. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { toldTable } from "../../../site-agent/group/told-table.ts";

const MiB = 2 ** 20;
const data = {
  number: 0,
  name: "data",
  sizeBytes: 4 * MiB,
  imagePath: "/images/data",
  imageIdentity: null,
  foundingBytes: 4 * MiB,
  changedAt: 0,
  wholeFrom: 0,
};
const log = { ...data, number: 1, name: "log", foundingBytes: null, changedAt: 70 };
const change = { imagePath: "/images/x", imageIdentity: "x", holdsData: false };
const entry = ({ number, name, sizeBytes }: typeof data) => ({ number, name, sizeBytes });

test("a history whose table never changed has told its beginning with its volumes", () => {
  assert.deepEqual(toldTable({ volumes: [data], initial: "zeroes" }, []), {
    volumes: [entry(data)],
    founding: undefined,
    imagesHeldData: false,
  });
});

test("a table that changed once is told with what it began with", () => {
  const told = toldTable({ volumes: [data, { ...log, foundingBytes: null }], initial: "zeroes" }, []);
  assert.deepEqual(told.founding, [entry(data)]);
  assert.deepEqual(
    told.volumes.map(({ number }) => number),
    [0, 1],
  );
});

test("the first change is told with the beginning that it has left, from when its record is durable", () => {
  const grown = { ...entry(data), sizeBytes: 8 * MiB, ...change };
  const told = toldTable({ volumes: [data], initial: "zeroes" }, [grown]);
  assert.deepEqual(told.volumes, [{ ...entry(data), sizeBytes: 8 * MiB }]);
  assert.deepEqual(told.founding, [entry(data)]);
});

test("a volume that joins with data is never told without it: a standby made now would call zeroes its content", () => {
  const joining = { number: 2, name: "old", sizeBytes: MiB, ...change, holdsData: true };
  const told = toldTable({ volumes: [data, { ...log, foundingBytes: null }], initial: "zeroes" }, [joining]);
  assert.deepEqual(
    told.volumes.map(({ name }) => name),
    ["data", "log", "old"],
  );
  assert.equal(told.imagesHeldData, true);
  assert.equal(toldTable({ volumes: [data], initial: "data" }, []).imagesHeldData, true);
});
