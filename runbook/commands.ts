/** The table of commands: what `splitsite` can do, in the order of its help. */
import type { CommandSpec } from "./command.ts";
import { attach } from "./commands/attach.ts";
import { certsIssue, certsRotate, certsShow } from "./commands/certs.ts";
import { configCheck, configSchema, configShow } from "./commands/config.ts";
import { doctor } from "./commands/doctor.ts";
import { failoverPlan } from "./commands/failover-plan.ts";
import { failoverRun } from "./commands/failover-run.ts";
import { groupCreate, groupPause, groupResume } from "./commands/group.ts";
import { groupRetire } from "./commands/group-retire.ts";
import { historyVerify } from "./commands/history.ts";
import { imageExport } from "./commands/image-export.ts";
import { imageVerify } from "./commands/image-verify.ts";
import { init } from "./commands/init.ts";
import { journalStats, journalVerify } from "./commands/journal.ts";
import { pointsPin, pointsUnpin } from "./commands/pins.ts";
import { points } from "./commands/points.ts";
import { run } from "./commands/run.ts";
import { scanGiveUp, scanPause, scanResume, scanStatus, verify } from "./commands/scan.ts";
import { status } from "./commands/status.ts";
import { throttleClear, throttleSet, throttleShow } from "./commands/throttle.ts";
import { version } from "./commands/version.ts";
import { watch } from "./commands/watch.ts";

export const commands: readonly CommandSpec[] = [
  run,
  init,
  certsIssue,
  certsShow,
  certsRotate,
  configCheck,
  configShow,
  configSchema,
  doctor,
  status,
  watch,
  points,
  pointsPin,
  pointsUnpin,
  historyVerify,
  verify,
  scanStatus,
  scanPause,
  scanResume,
  scanGiveUp,
  attach,
  throttleShow,
  throttleSet,
  throttleClear,
  failoverPlan,
  failoverRun,
  groupCreate,
  groupPause,
  groupResume,
  groupRetire,
  journalStats,
  journalVerify,
  imageExport,
  imageVerify,
  version,
];
