// npm run fuzz: long runs of the fuzzers, and the upkeep of their corpora.
import { parseArgs } from 'node:util';
import { mergeCorpus } from './runner/fuzz-merge.js';
import { fuzzTargets, missingProgram, runFuzzer } from './runner/fuzzers.js';
import type { Options } from './runner/group.js';
import { makeLogDir } from './runner/log-dir.js';

const USAGE = `usage: npm run fuzz -- [--target NAME]... [--seconds N] [--merge] [--verbose]

  --target NAME  only this fuzzer; may be repeated. There are: ${fuzzTargets().join(', ')}
  --seconds N    how long each runs (default 600)
  --merge        then choose the committed corpus anew, out of it and of what was found
  --verbose      print what they print while they run
`;

function parse() {
  try {
    return parseArgs({
      options: {
        target: { type: 'string', multiple: true },
        seconds: { type: 'string', default: '600' },
        merge: { type: 'boolean', default: false },
        verbose: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    return fail((error as Error).message);
  }
}

function fail(message: string): never {
  process.stderr.write(`${message}\n\n${USAGE}`);
  process.exit(2);
}

async function main(): Promise<number> {
  const flags = parse();
  if (flags.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const targets = flags.target ?? fuzzTargets();
  const unknown = targets.find((target) => missingProgram(target));
  if (unknown !== undefined) {
    return fail(`there is no fuzzer ${unknown}; there are ${fuzzTargets().join(', ')}`);
  }
  const seconds = Number(flags.seconds);
  if (!Number.isSafeInteger(seconds) || seconds < 0) {
    return fail(`--seconds ${flags.seconds}: give a number of seconds`);
  }
  const options: Options = { logDir: makeLogDir(), seeds: 0, tidy: false, long: false, verbose: flags.verbose };
  let failed = 0;
  for (const target of targets) {
    if (seconds > 0) {
      const { ok, output, summary } = await runFuzzer(target, seconds, options);
      process.stdout.write(`${target}: ${summary}${ok ? '' : `\n${output}`}\n`);
      failed += ok ? 0 : 1;
    }
    if (flags.merge) {
      process.stdout.write(`${target}: ${await mergeCorpus(target, options)} inputs in the corpus\n`);
    }
  }
  process.stdout.write(`${targets.length - failed} passed, ${failed} failed\n`);
  return failed === 0 ? 0 : 1;
}

process.exitCode = await main();
