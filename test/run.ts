// The test runner: groups in order, a line for each, the output of what failed, and as the very last line
// "N passed, N failed". Every group's full output is in log files, in a directory that is named at the end.
import { parseArgs } from 'node:util';
import { add, type Counts, formatCounts, NOTHING } from './runner/counts.js';
import type { Group, Options } from './runner/group.js';
import { checkGroup } from './runner/group-check.js';
import { fuzzGroup } from './runner/group-fuzz.js';
import { integrationGroup } from './runner/group-integration.js';
import { cUnitGroup, simGroup } from './runner/group-native.js';
import { tsUnitGroup } from './runner/group-node.js';
import { makeLogDir } from './runner/log-dir.js';
import { endOnSignals } from './runner/program.js';
import { Reporter } from './runner/reporter.js';

const GROUPS: readonly Group[] = [checkGroup, cUnitGroup, simGroup, fuzzGroup, tsUnitGroup, integrationGroup];

const USAGE = `usage: bin/test [--group NAME]... [--seeds N] [--tidy] [--long] [--verbose] [--list]

  --group NAME   only this group; may be repeated
  --seeds N      how many seeds the simulator runs (default 1000)
  --tidy         the check group also runs clang-tidy over the C code (some minutes)
  --long         the numbers of an acceptance run where tests have them: hours instead of minutes
  --verbose      print the output of everything while it runs, one program at a time
  --list         tell the groups and what they test
`;

function parse() {
  try {
    return parseArgs({
      options: {
        group: { type: 'string', multiple: true },
        seeds: { type: 'string', default: '1000' },
        tidy: { type: 'boolean', default: false },
        long: { type: 'boolean', default: false },
        verbose: { type: 'boolean', default: false },
        list: { type: 'boolean', default: false },
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
  if (flags.list) {
    for (const { name, about } of GROUPS) {
      process.stdout.write(`${name.padEnd(14)}${about}\n`);
    }
    return 0;
  }
  const unknown = flags.group?.find((name) => !GROUPS.some((group) => group.name === name));
  if (unknown !== undefined) {
    return fail(`there is no group ${unknown}; the groups are ${GROUPS.map(({ name }) => name).join(', ')}`);
  }
  const seeds = Number(flags.seeds);
  if (!Number.isSafeInteger(seeds) || seeds < 1) {
    return fail(`--seeds ${flags.seeds}: give a number of at least 1`);
  }

  endOnSignals();
  const logDir = makeLogDir();
  const options: Options = { logDir, seeds, tidy: flags.tidy, long: flags.long, verbose: flags.verbose };
  const reporter = new Reporter(options);
  let total: Counts = NOTHING;
  for (const group of GROUPS.filter(({ name }) => flags.group?.includes(name) ?? true)) {
    total = add(total, await reporter.runGroup(group));
  }
  process.stdout.write(`logs: ${logDir}\n${formatCounts(total)}\n`);
  return total.failed === 0 ? 0 : 1;
}

process.exitCode = await main();
