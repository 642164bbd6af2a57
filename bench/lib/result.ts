// The file of --json: the rows, and all that is needed to measure them again.
import { readFileSync, writeFileSync } from 'node:fs';
import { messageOf } from '../../test/lab/errors.js';
import { BenchError } from './errors.js';
import type { Machine } from './machine.js';
import type { Row } from './row.js';

const FORMAT = 2;

export interface BlockResult {
  bench: 'block';
  format: typeof FORMAT;
  /** ISO 8601. */
  started: string;
  command: string;
  /** Of each row. */
  seconds: number;
  machine: Machine;
  /** By system: who runs on which CPU. */
  cpus: Record<string, string>;
  rows: Row[];
}

export function makeResult(parts: Omit<BlockResult, 'bench' | 'format'>): BlockResult {
  return { bench: 'block', format: FORMAT, ...parts };
}

export function writeResult(file: string, result: BlockResult): void {
  // A row per line: readable, and short where there are histograms.
  const { rows, ...head } = result;
  const lines = rows.map((row) => `  ${JSON.stringify(row)}`).join(',\n');
  writeFileSync(file, `${JSON.stringify(head, null, 1).slice(0, -2)},\n "rows": [\n${lines}\n ]\n}\n`);
}

export function readResult(file: string): BlockResult {
  let value: Partial<BlockResult>;
  try {
    value = JSON.parse(readFileSync(file, 'utf8')) as Partial<BlockResult>;
  } catch (error) {
    throw new BenchError(`${file}: ${messageOf(error)}`);
  }
  if (value.bench !== 'block' || value.format !== FORMAT || !Array.isArray(value.rows)) {
    throw new BenchError(`${file}: not a result that \`bench -- block --json\` of this version wrote`);
  }
  // Those of before there were several workers.
  return { ...(value as BlockResult), rows: value.rows.map((row) => ({ ...row, workers: row.workers ?? 1 })) };
}
