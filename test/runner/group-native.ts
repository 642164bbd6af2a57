// The C programs: cmocka unit tests, built with sanitizers, the protocol simulator, and the model checkers of cache and
// layers, and of the interceptor.
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename } from 'node:path';
import { repoRoot } from '../lab/paths.js';
import { add, countFlatTap, NOTHING, withStatus } from './counts.js';
import { findFiles } from './files.js';
import type { Group, Item, Options } from './group.js';
import { inLanes, lanesOf } from './lanes.js';
import { runProgram } from './program.js';

// The model checkers' worlds are small: so many for each one of the simulator.
const SMALL_WORLDS = 6;

const THREAD_SANITIZER = { TSAN_OPTIONS: 'halt_on_error=1' };

const SANITIZERS = {
  ASAN_OPTIONS: 'abort_on_error=1:detect_leaks=1:strict_string_checks=1',
  UBSAN_OPTIONS: 'print_stacktrace=1',
};

export const cUnitGroup: Group = {
  name: 'c-unit',
  about:
    'unit tests of the C core, under AddressSanitizer and UndefinedBehaviorSanitizer, and those of the loop under ThreadSanitizer',
  async *run(options) {
    const plain = findFiles(['test/unit/native'], ['_test.c']).map((source) =>
      unitTest(source, 'build-san', SANITIZERS),
    );
    const threads = findFiles(['test/unit/native/loop'], ['_test.c']).map((source) =>
      unitTest(source, 'build-tsan', THREAD_SANITIZER, ' with ThreadSanitizer'),
    );
    // Those with threads take longest, and mostly wait.
    yield* inLanes([...threads, ...plain], lanesOf(options), (one) => runUnitTest(one, options));
  },
};

interface UnitTest {
  name: string;
  program: string;
  env: Record<string, string>;
}

function unitTest(source: string, folder: string, env: Record<string, string>, suffix = ''): UnitTest {
  const name = basename(source, '.c');
  const program = `${repoRoot}/${folder}/unit/${name}`;
  return { name: `${name}${suffix}`, program, env };
}

async function runUnitTest({ name, program, env }: UnitTest, options: Options): Promise<Item> {
  const tap = { ...env, CMOCKA_MESSAGE_OUTPUT: 'tap' };
  const { status, output, seconds } = await runProgram([program], name.replaceAll(' ', '-'), options, tap);
  const counts = withStatus(countFlatTap(output), status);
  return { name: `${name} (${seconds.toFixed(1)} s)`, counts, output };
}

export const simGroup: Group = {
  name: 'sim',
  about:
    'protocol, block cache, layers and interceptor in seeded simulations of loss, reordering and crashes; planted bugs that they must find',
  async *run(options) {
    const jobs = ['--jobs', `${availableParallelism()}`];
    yield sim('sim', 'seeds', ['--seeds', `${options.seeds}`, ...jobs], options);
    yield sim('sim', 'plants', ['--plants', ...jobs], options);
    yield sim('cache_sim', 'cache-seeds', ['--seeds', `${options.seeds * SMALL_WORLDS}`, ...jobs], options);
    yield sim('cache_sim', 'cache-plants', ['--plants', ...jobs], options);
    yield sim('intercept_sim', 'intercept-seeds', ['--seeds', `${options.seeds * SMALL_WORLDS}`, ...jobs], options);
    yield sim('intercept_sim', 'intercept-plants', ['--plants', ...jobs], options);
  },
};

async function sim(binary: string, name: string, args: readonly string[], options: Options): Promise<Item> {
  const program = `${repoRoot}/build-rel/${binary}`;
  if (!existsSync(program)) {
    return { name, counts: withStatus(NOTHING, 1), output: `${program} has not been built` };
  }
  const { status, output } = await runProgram([program, ...args], `sim-${name}`, options);
  // Its last line is "sim: N passed, N failed".
  const [, passed = 0, failed = 0] = /^sim: (\d+) passed, (\d+) failed$/m.exec(output) ?? [];
  const counts = add(NOTHING, { passed: Number(passed), failed: Number(failed), skipped: 0 });
  return { name, counts: withStatus(counts, status), output };
}
