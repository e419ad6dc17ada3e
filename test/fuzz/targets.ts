/** Every fuzz target by name: the one list that tests and the long run share. */
import type { FuzzTarget } from "./target.ts";
import {
  batchTarget,
  frameTarget,
  headTarget,
  markerTarget,
  recordTarget,
  watermarkTarget,
  writeAheadTarget,
} from "./targets/formats.ts";
import { certificateNamesTarget, controlTarget, documentsTarget, overrideTarget } from "./targets/json.ts";
import { nbdRequests, nbdSession } from "./targets/nbd.ts";
import { settingsTarget } from "./targets/settings.ts";

export const fuzzTargets: readonly FuzzTarget[] = [
  nbdSession,
  nbdRequests,
  recordTarget,
  frameTarget,
  batchTarget,
  headTarget,
  watermarkTarget,
  writeAheadTarget,
  markerTarget,
  controlTarget,
  documentsTarget,
  overrideTarget,
  certificateNamesTarget,
  settingsTarget,
];
