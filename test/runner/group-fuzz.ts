// The fuzzers, each from its committed corpus and for a few seconds. Long runs: npm run fuzz.
import { ONE_FAILED, ONE_PASSED } from './counts.js';
import { fuzzTargets, missingProgram, runFuzzer } from './fuzzers.js';
import type { Group, Item, Options } from './group.js';
import { inLanes, lanesOf } from './lanes.js';

const SECONDS = 10;

export const fuzzGroup: Group = {
  name: 'fuzz',
  about: `the fuzzers, each from its corpus and for ${SECONDS} s`,
  async *run(options) {
    yield* inLanes(fuzzTargets(), lanesOf(options), (target) => fuzz(target, options));
  },
};

async function fuzz(target: string, options: Options): Promise<Item> {
  const missing = missingProgram(target);
  if (missing) {
    return { name: target, counts: ONE_FAILED, output: missing };
  }
  const { ok, output, summary } = await runFuzzer(target, SECONDS, options);
  return { name: `${target}: ${summary}`, counts: ok ? ONE_PASSED : ONE_FAILED, output };
}
