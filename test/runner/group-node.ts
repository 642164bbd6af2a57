// Tests written in TypeScript, run by node --test from their compiled form. The files are found by their
// sources: a compiled test whose source is gone does not run.
import { readFileSync } from 'node:fs';
import { countNodeTap, withStatus } from './counts.js';
import { findFiles } from './files.js';
import type { Group, Item, Options } from './group.js';
import { inLanes, lanesOf } from './lanes.js';
import { runProgram } from './program.js';

/** A test that hangs fails, instead of the whole run. */
const TEST_LIMIT_MS = 20 * 60_000;

/** A test reports a measurement with t.diagnostic('measured: ...'). */
const MEASURED = /^\s*# (measured: .*)$/gm;

export const tsUnitGroup: Group = {
  name: 'ts-unit',
  about: 'unit tests of the TypeScript code',
  async *run(options) {
    // Much of them waits for processes to start.
    const sources = findFiles(['test/unit'], ['.test.ts']);
    yield* inLanes(sources, lanesOf(options), (source) => nodeTest(source, options));
  },
};

export async function nodeTest(source: string, options: Options, env: Record<string, string> = {}): Promise<Item> {
  const compiled = `dist/${source.replace(/\.ts$/, '.js')}`;
  const logName = source.replaceAll('/', '-').replace(/\.test\.ts$/, '');
  const tapFile = `${options.logDir}/${logName}.tap`;
  const tap = ['--test-reporter=tap', `--test-reporter-destination=${tapFile}`];
  const spec = ['--test-reporter=spec', '--test-reporter-destination=stdout'];
  const limit = `--test-timeout=${TEST_LIMIT_MS}`;
  const argv = [process.execPath, '--enable-source-maps', '--test', limit, ...tap, ...spec, compiled] as const;
  const { status, output, seconds } = await runProgram([...argv], logName, options, env);
  const result = readFileSync(tapFile, 'utf8');
  const notes = [...result.matchAll(MEASURED)].map(([, note = '']) => note);
  // The report of failures stands at the end of what the spec reporter prints.
  const counts = withStatus(countNodeTap(result), status);
  return { name: `${source} (${seconds.toFixed(1)} s)`, counts, output: failures(output), notes };
}

function failures(output: string): string {
  const start = output.lastIndexOf('failing tests:');
  return start < 0 ? output : output.slice(start);
}
