// The fuzzers, each from its committed corpus and for a few seconds. Long runs: npm run fuzz.
import { ONE_FAILED, ONE_PASSED } from './counts.js';
import { fuzzTargets, missingProgram, runFuzzer } from './fuzzers.js';
import type { Group } from './group.js';

const SECONDS = 10;

export const fuzzGroup: Group = {
  name: 'fuzz',
  about: `the fuzzers, each from its corpus and for ${SECONDS} s`,
  async *run(options) {
    for (const target of fuzzTargets()) {
      const missing = missingProgram(target);
      if (missing) {
        yield { name: target, counts: ONE_FAILED, output: missing };
        continue;
      }
      const { ok, output, summary } = await runFuzzer(target, SECONDS, options);
      yield { name: `${target}: ${summary}`, counts: ok ? ONE_PASSED : ONE_FAILED, output };
    }
  },
};
