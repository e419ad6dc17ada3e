/**
 * Decides from what a test run said whether it caught a planted bug. Pure. A bug counts as caught only when a test
 * failed by an assertion or by an error with a code of its own: a run that broke because the changed source does not
 * compile or load, or because a test was merely cut off, proves nothing.
 */

/** One line of the reporter. */
export interface TestOutcome {
  readonly outcome: "pass" | "fail" | "skip";
  readonly title: string;
  readonly file: string;
  readonly suite: boolean;
  /** As the test runner names it: `testCodeFailure`, `subtestsFailed`, `testTimeoutFailure` ... */
  readonly failureType: string;
  /** The error and its causes, outermost first. */
  readonly errors: readonly { readonly name: string; readonly code: string; readonly message: string }[];
}

export type Judgement =
  | { readonly kind: "fine" }
  /** A test saw the bug. */
  | { readonly kind: "caught"; readonly why: string }
  /** It failed, but not by seeing anything: a timeout, a plain error, a parent of something that failed. */
  | { readonly kind: "unclear"; readonly why: string }
  /** The changed source does not even load. */
  | { readonly kind: "broken"; readonly why: string };

const loadErrors =
  /SyntaxError|TransformError|Transform failed|ERR_MODULE_NOT_FOUND|ERR_UNSUPPORTED|Cannot find module|does not provide an export|ReferenceError/;
/** What the test runner itself says; says nothing of the product. */
const runnerCodes = new Set(["", "ERR_TEST_FAILURE", "undefined", "ABORT_ERR"]);
/** A property test wraps the assertion that failed; its own message opens like this. */
const propertyFailed = /^Property failed after \d+ tests/;

export function judge(test: TestOutcome): Judgement {
  if (test.outcome !== "fail") return { kind: "fine" };
  const text = test.errors.map(({ name, code, message }) => `${name} ${code} ${message}`).join("\n");
  if (loadErrors.test(text)) return { kind: "broken", why: firstLine(text) };
  for (const { code, message } of test.errors) {
    if (propertyFailed.test(message)) return { kind: "caught", why: propertyReason(message) };
    if (!runnerCodes.has(code) && /^[A-Z][A-Z0-9_]+$/.test(code))
      return { kind: "caught", why: `${code} ${firstLine(message)}` };
  }
  return { kind: "unclear", why: `${test.failureType} ${firstLine(text)}` };
}

/** The error inside a failed property, not the counterexample. */
function propertyReason(message: string): string {
  const at = message.search(/Got |AssertionError|Error: /);
  return `property: ${firstLine(at < 0 ? message : message.slice(at))}`;
}

function firstLine(text: string): string {
  return (text.trim().split("\n")[0] ?? "").slice(0, 160);
}
