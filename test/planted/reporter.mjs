/**
 * Test reporter for the runs of planted bugs: one JSON line for each test that ended, with the names, codes and messages
 * down the causes of a failure. Must never judge: what counts as caught is decided by whoever reads it. Plain
 * JavaScript with a default export because that is what the test runner loads, from the sources as from the build.
 */

const causesMax = 6;

function chainOf(error) {
  const links = [];
  for (let link = error; link != null && links.length < causesMax; link = link.cause) {
    const text = typeof link === "string";
    links.push({
      name: text ? "" : String(link.name ?? ""),
      code: text ? "" : String(link.code ?? ""),
      message: text ? link : String(link.message ?? ""),
    });
  }
  return links;
}

export default async function* outcomes(source) {
  for await (const event of source) {
    if (event.type !== "test:pass" && event.type !== "test:fail") continue;
    const { name, details, file, skip } = event.data;
    const outcome = event.type === "test:pass" ? (skip === undefined ? "pass" : "skip") : "fail";
    const failureType = String(details.error?.failureType ?? "");
    yield `${JSON.stringify({ outcome, title: name, file: file ?? "", suite: details.type === "suite", failureType, errors: chainOf(details.error) })}\n`;
  }
}
