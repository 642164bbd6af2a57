// What changed between two results beyond noise. The noise of a row is what its rounds show: when the ranges of both
// results, from the worst round to the best, do not touch, the change is more than that. With few rounds a range says
// little, so it is taken to be at least a part of the value.

import { median } from './median.js';
import type { BlockResult } from './result.js';
import { cpuUsPerIo, describeSystem, keyOf, type Round, type Row } from './row.js';
import { layOut } from './table.js';
import { describeWorkload } from './workloads.js';

const ROUNDS_ENOUGH = 3;
const LEAST_NOISE = 0.03;
const LEAST_NOISE_FEW_ROUNDS = 0.15;

const FIGURES = [
  { name: 'IOPS', more: 'better', of: (round: Round) => round.iops },
  { name: 'p50 us', more: 'worse', of: (round: Round) => round.p50_us },
  { name: 'p99 us', more: 'worse', of: (round: Round) => round.p99_us },
  { name: 'CPU us/io', more: 'worse', of: cpuUsPerIo },
] as const;

export type Verdict = 'better' | 'worse' | 'noise';

export interface Change {
  row: Row;
  figure: (typeof FIGURES)[number]['name'];
  before: number;
  after: number;
  percent: number;
  verdict: Verdict;
}

export interface Comparison {
  changes: Change[];
  onlyBefore: Row[];
  onlyAfter: Row[];
  /** Median change of IOPS of what is not Outrigger, percent: the machine. undefined: there is none. */
  drift: number | undefined;
}

interface Range {
  low: number;
  high: number;
}

/** From the worst round to the best, disturbed ones left out where there are others. */
export function rangeOf(row: Row, of: (round: Round) => number): Range {
  const quiet = row.rounds.filter(({ disturbed }) => !disturbed);
  const rounds = quiet.length > 0 ? quiet : row.rounds;
  const values = rounds.map(of);
  const middle = of(row);
  const least = middle * (rounds.length >= ROUNDS_ENOUGH ? LEAST_NOISE : LEAST_NOISE_FEW_ROUNDS);
  return { low: Math.min(middle - least, ...values), high: Math.max(middle + least, ...values) };
}

const touch = (a: Range, b: Range) => a.low <= b.high && b.low <= a.high;

export function compare(before: readonly Row[], after: readonly Row[]): Comparison {
  const old = new Map(before.map((row) => [keyOf(row), row]));
  const now = new Set(after.map(keyOf));
  const pairs = after.flatMap((row) => {
    const other = old.get(keyOf(row));
    return other === undefined ? [] : [[other, row] as const];
  });
  const drifts = pairs
    .filter(([, row]) => !row.system.startsWith('outrigger'))
    .map(([other, row]) => percentOf(other.iops, row.iops));
  return {
    changes: pairs.flatMap(([other, row]) => FIGURES.map((figure) => changeOf(other, row, figure))),
    onlyBefore: before.filter((row) => !now.has(keyOf(row))),
    onlyAfter: after.filter((row) => !old.has(keyOf(row))),
    drift: drifts.length === 0 ? undefined : median(drifts),
  };
}

function changeOf(other: Row, row: Row, { name, more, of }: (typeof FIGURES)[number]): Change {
  const [before, after] = [of(other), of(row)];
  const isNoise = touch(rangeOf(other, of), rangeOf(row, of));
  const improves = after > before === (more === 'better');
  const verdict = isNoise ? 'noise' : improves ? 'better' : 'worse';
  return { row, figure: name, before, after, percent: percentOf(before, after), verdict };
}

const percentOf = (before: number, after: number) => (before === 0 ? 0 : (after / before - 1) * 100);
const signed = (percent: number) => `${percent >= 0 ? '+' : ''}${percent.toFixed(1)} %`;
const figure = (value: number) => (value >= 1000 ? Math.round(value).toLocaleString('en') : value.toFixed(2));
const roundsOf = (rows: readonly Row[]) => [...new Set(rows.map(({ rounds }) => rounds.length))].join('/');

export function formatComparison(old: BlockResult, now: BlockResult, oldName: string): string {
  const { changes, onlyBefore, onlyAfter, drift } = compare(old.rows, now.rows);
  const beyond = changes.filter(({ verdict }) => verdict !== 'noise');
  const lines = beyond.map(({ row, figure: name, before, after, percent, verdict }) => [
    ...[describeSystem(row), describeWorkload(row), name],
    ...[figure(before), figure(after), signed(percent), `${verdict}${row.disturbed ? ' !' : ''}`],
  ]);
  const few = [old, now].some(({ rows }) => rows.some(({ rounds }) => rounds.length < ROUNDS_ENOUGH));
  return [
    '',
    `Against ${oldName} of ${old.started} (${old.machine.versions.outrigger}; rounds: ${roundsOf(old.rows)}, now ${roundsOf(now.rows)}):`,
    ...(lines.length > 0
      ? layOut([['system', 'workload', 'figure', 'before', 'now', 'change', ''], ...lines])
      : ['  nothing changed beyond noise']),
    `${changes.length - beyond.length} of ${changes.length} figures are within the noise of both.`,
    ...(few
      ? [
          `Rows with less than ${ROUNDS_ENOUGH} rounds show no noise: ${LEAST_NOISE_FEW_ROUNDS * 100} % are taken for it. Use --repeat.`,
        ]
      : []),
    ...(drift === undefined
      ? []
      : [`Peers and limits changed by ${signed(drift)} IOPS in the median: so much is the machine.`]),
    ...(onlyBefore.length > 0 ? [`Only there: ${onlyBefore.length} rows.`] : []),
    ...(onlyAfter.length > 0 ? [`Only here: ${onlyAfter.length} rows.`] : []),
    '',
  ].join('\n');
}
