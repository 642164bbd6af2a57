// Running one fuzzer: where its inputs come from and go to, and what it says at the end.
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { basename } from 'node:path';
import { repoRoot } from '../lab/paths.js';
import { findFiles } from './files.js';
import type { Options } from './group.js';
import { runProgram } from './program.js';

const SANITIZERS = {
  ASAN_OPTIONS: 'detect_leaks=1:quarantine_size_mb=16:malloc_context_size=8',
  UBSAN_OPTIONS: 'print_stacktrace=1',
};

/** The names of all fuzzers: test/fuzz/NAME_fuzz.c. */
export function fuzzTargets(): string[] {
  return findFiles(['test/fuzz'], ['_fuzz.c']).map((path) => basename(path, '_fuzz.c'));
}

export const fuzzProgram = (target: string) => `${repoRoot}/build-fuzz/${target}_fuzz`;
/** Committed: what every run begins with. */
export const corpusOf = (target: string) => `${repoRoot}/test/fuzz/corpus/${target}`;
/** Not committed: inputs that later runs found. */
export const foundBy = (target: string) => `${repoRoot}/build/fuzz/${target}`;
const artifacts = `${repoRoot}/build/fuzz/artifacts`;

export interface FuzzRun {
  ok: boolean;
  output: string;
  /** "123456 executions, 789 edges". */
  summary: string;
}

/** All inputs there are once, then new ones until `seconds` have passed. */
export async function runFuzzer(target: string, seconds: number, options: Options): Promise<FuzzRun> {
  const found = foundBy(target);
  mkdirSync(found, { recursive: true });
  mkdirSync(artifacts, { recursive: true });
  mkdirSync(corpusOf(target), { recursive: true });
  const { status, output } = await runProgram(
    [
      fuzzProgram(target),
      found,
      corpusOf(target),
      `-max_total_time=${seconds}`,
      '-max_len=2048',
      '-timeout=20',
      '-rss_limit_mb=3000',
      '-print_final_stats=1',
      `-artifact_prefix=${artifacts}/${target}-`,
    ],
    `fuzz-${target}`,
    options,
    SANITIZERS,
  );
  const artifact = /Test unit written to (\S+)/.exec(output)?.[1];
  const edges = [...output.matchAll(/ cov: (\d+)/g)].at(-1)?.[1] ?? '0';
  const executions = /stat::number_of_executed_units:\s*(\d+)/.exec(output)?.[1] ?? '0';
  return {
    ok: status === 0,
    output: artifact ? `${findings(output)}\n\nto run it again: ${fuzzProgram(target)} ${artifact}` : output,
    summary: `${executions} executions, ${edges} edges`,
  };
}

/** The report of what went wrong, without the progress before it and the hex dump behind. */
function findings(output: string): string {
  const lines = output.split('\n').filter((line) => !/^#\d+\s|NEW_FUNC/.test(line));
  const end = lines.findIndex((line) => line.startsWith('SUMMARY:'));
  return lines.slice(Math.max(0, end - 40), end + 1).join('\n');
}

export function missingProgram(target: string): string | undefined {
  return existsSync(fuzzProgram(target)) ? undefined : `${fuzzProgram(target)} has not been built`;
}

export function filesIn(directory: string): string[] {
  return existsSync(directory) ? readdirSync(directory).map((name) => `${directory}/${name}`) : [];
}
