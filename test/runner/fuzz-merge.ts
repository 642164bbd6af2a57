// Chooses a small corpus out of many inputs: first those that together reach every edge, then those that add
// the most of libFuzzer's features (how often an edge is passed), up to a limit of files and bytes.
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename } from 'node:path';
import { corpusOf, filesIn, foundBy, fuzzProgram } from './fuzzers.js';
import type { Options } from './group.js';
import { runProgram } from './program.js';

const FILES_MAX = 150;
const BYTES_MAX = 250_000;

interface Candidate {
  path: string;
  bytes: number;
  edges: Set<number>;
  features: Set<number>;
}

/** Replaces the committed corpus; returns how many inputs it has now. */
export async function mergeCorpus(target: string, options: Options): Promise<number> {
  const inputs = [...filesIn(corpusOf(target)), ...filesIn(foundBy(target))];
  const work = mkdtempSync(`${tmpdir()}/fuzz-merge-`);
  try {
    const everything = `${work}/all`;
    mkdirSync(everything);
    mkdirSync(`${work}/out`);
    for (const path of inputs) {
      copyFileSync(path, `${everything}/${basename(path)}`);
    }
    const control = `${work}/control`;
    await runProgram(
      [fuzzProgram(target), '-merge=1', `-merge_control_file=${control}`, `${work}/out`, everything],
      `fuzz-merge-${target}`,
      options,
    );
    const chosen = choose(readControl(readFileSync(control, 'utf8')));
    const kept = chosen.map(({ path }) => [path, readFileSync(path)] as const);
    rmSync(corpusOf(target), { recursive: true, force: true });
    mkdirSync(corpusOf(target), { recursive: true });
    for (const [path] of kept) {
      copyFileSync(path, `${corpusOf(target)}/${basename(path)}`);
    }
    return kept.length;
  } finally {
    rmSync(work, { recursive: true });
  }
}

/** libFuzzer's control file: the number of files, of those merged first, the paths; then lines "FT index
 *  feature...", "COV index edge...". */
function readControl(text: string): Candidate[] {
  const lines = text.split('\n');
  const count = Number(lines[0]);
  const candidates = lines
    .slice(2, 2 + count)
    .map((path) => ({ path, bytes: statSync(path).size, edges: new Set<number>(), features: new Set<number>() }));
  for (const line of lines.slice(2 + count)) {
    const [kind, index, ...numbers] = line.split(' ');
    const candidate = candidates[Number(index)];
    if (candidate && (kind === 'FT' || kind === 'COV')) {
      candidate[kind === 'FT' ? 'features' : 'edges'] = new Set(numbers.map(Number));
    }
  }
  return candidates;
}

/** libFuzzer lists only what a file adds to those before it, smallest first: so a file's share counts. */
function choose(candidates: readonly Candidate[]): Candidate[] {
  const byWorth = (worth: (c: Candidate) => number) =>
    candidates.filter((c) => worth(c) > 0).sort((a, b) => worth(b) - worth(a) || a.bytes - b.bytes);
  const chosen = new Set<Candidate>();
  let bytes = 0;
  for (const candidate of [...byWorth((c) => c.edges.size), ...byWorth((c) => c.features.size)]) {
    if (!chosen.has(candidate) && chosen.size < FILES_MAX && bytes + candidate.bytes <= BYTES_MAX) {
      chosen.add(candidate);
      bytes += candidate.bytes;
    }
  }
  return [...chosen];
}
