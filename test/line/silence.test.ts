/**
 * F40, F41: the line goes silent, both ways or one way only, for today's connections and for new ones. Nobody is told.
 * It must be noticed within 10 s and shown within 15 s at both sites (O11), writers must not feel it (P4), nothing is
 * applied twice when old bytes come late after all, and when the line is back the lag returns by itself (I8, O10).
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { seedFromEnvironment } from "../support/seeded.ts";
import { until } from "../support/wait.ts";
import { LineRig } from "./line-rig.ts";

const seed = seedFromEnvironment();
/** Promised: a dead peer is noticed within this, ms. */
const noticedWithinMs = 10_000;
/** Promised: what is shown is true within this, ms. */
const shownWithinMs = 15_000;
/** For asking and answering on a machine that does other things too, ms. */
const slackMs = 1_500;
/** I8: half as long again as the backlog takes at the spare rate, and this, ms. */
const recoveredStandingMs = 30_000;
/** What a line without a limit carries besides the load even on a machine that does other things too, bytes/s. */
const spareBytesPerSecond = 1e6;
const bytesPerSecond = 2e6;

test(`silence up, down and both ways is noticed, shown, unfelt by writers, and over when it is over (F40, F41, SEED=${seed})`, async (t) => {
  const rig = await LineRig.start({ seed, bytesPerSecond });
  t.after(() => rig.dispose());
  const { sites } = rig.pair;
  const seen: string[] = [];
  for (const way of ["up", "down", "both"] as const) {
    const context = `SEED=${seed} ${way}`;
    rig.resetWorst();
    const silentFromMs = performance.now();
    if (way === "both") rig.relay.cut();
    else rig.relay.oneWay(way);
    rig.pair.faultsUnderLoad += 1;
    const [noticedMs] = await Promise.all([
      until(
        `${context}: the owner to notice`,
        async () => {
          const status = await sites.owner("primary");
          if (status.link.up) return undefined;
          assert.equal(status.io, "serving", context);
          assert.notEqual(status.state, "protected", context);
          assert.notEqual(status.reason, null, context);
          return performance.now() - silentFromMs;
        },
        noticedWithinMs + slackMs,
      ),
      // One way is shown by the same rule; asking once saves the tests its 10 s.
      way !== "both"
        ? Promise.resolve()
        : until(
            `${context}: the standby to show that it hears nothing`,
            async () => ((await sites.standby("dr")).state === "protected" ? undefined : true),
            shownWithinMs + slackMs,
          ),
    ]);
    const { position, lag } = await sites.owner("primary");
    assert.ok(lag.writes >= position.written - position.acknowledged && lag.writes > 0, JSON.stringify(lag));
    assert.ok(lag.noProgressMs > 0 && lag.ageMs > 0, JSON.stringify(lag));
    rig.assertWritesUnfelt(context);

    const backlogBytes = lag.bytes;
    rig.relay.restore();
    const restoredMs = performance.now();
    await until(
      `${context}: the lag to return`,
      async () => {
        const status = await sites.owner("primary");
        return status.state === "protected" && status.lag.ageMs <= 5_000 ? true : undefined;
      },
      (backlogBytes / spareBytesPerSecond) * 1_500 + recoveredStandingMs,
    );
    await until(`${context}: the standby to be protected again`, async () =>
      (await sites.standby("dr")).state === "protected" ? true : undefined,
    );
    await rig.advance(20);
    seen.push(
      `${way}: noticed after ${Math.round(noticedMs)} ms, ${Math.round(backlogBytes / 1024)} KiB behind, back after ${Math.round(performance.now() - restoredMs)} ms, worst write ${Math.round(rig.worstMs)} ms`,
    );
  }
  const figures = await rig.finish(3);
  t.diagnostic(`${seen.join("; ")}; ${figures}`);
});
