// What is measured: the standard workloads, the sweeps, and the filter of --only.
import { BenchError } from './errors.js';

export interface Workload {
  op: 'randread' | 'randwrite' | 'read' | 'write';
  bs: number;
  /** Operations in flight; of each disk, where there are several. */
  qd: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;

const STANDARD: readonly Workload[] = [
  { op: 'randread', bs: 4096, qd: 1 },
  { op: 'randwrite', bs: 4096, qd: 1 },
  { op: 'randread', bs: 4096, qd: 32 },
  { op: 'randwrite', bs: 4096, qd: 32 },
  { op: 'read', bs: 131072, qd: 8 },
  { op: 'write', bs: 131072, qd: 8 },
];

const BOTH_WAYS = ['randread', 'randwrite'] as const;
const SWEEP_BS = 4096;
const SWEEP_QD = 8;

/** 1, 2, 4 times `first`, up to `last`. */
function doublings(first: number, last: number): number[] {
  return first > last ? [] : [first, ...doublings(first * 2, last)];
}

/** What --sweep names. */
export const SWEEPS = {
  standard: STANDARD,
  qd: BOTH_WAYS.flatMap((op) => doublings(1, 128).map((qd) => ({ op, bs: SWEEP_BS, qd }))),
  bs: BOTH_WAYS.flatMap((op) => doublings(512, MIB).map((bs) => ({ op, bs, qd: SWEEP_QD }))),
} as const satisfies Record<string, readonly Workload[]>;

export type Sweep = keyof typeof SWEEPS;

export function describeBytes(bytes: number): string {
  if (bytes < KIB) {
    return `${bytes} B`;
  }
  return bytes < MIB ? `${bytes / KIB} KiB` : `${bytes / MIB} MiB`;
}

export function describeWorkload(workload: Workload): string {
  return `${describeBytes(workload.bs)} ${workload.op}, depth ${workload.qd}`;
}

export function sameWorkload(a: Workload, b: Workload): boolean {
  return a.op === b.op && a.bs === b.bs && a.qd === b.qd;
}

function workloadsOf(sweeps: readonly string[]): readonly Workload[] {
  return sweeps.flatMap((name) => {
    if (!Object.hasOwn(SWEEPS, name)) {
      throw new BenchError(`--sweep ${name}: there are ${Object.keys(SWEEPS).join(', ')}`);
    }
    return SWEEPS[name as Sweep];
  });
}

/** The workloads of the sweeps, each once, that match every given `field=value`. */
export function selectWorkloads(sweeps: readonly string[], only: readonly string[]): Workload[] {
  const all = workloadsOf(sweeps).filter(
    (workload, index, every) => every.findIndex((other) => sameWorkload(other, workload)) === index,
  );
  const selected = only.reduce<readonly Workload[]>((left, condition) => {
    const [field, value] = condition.split('=');
    if ((field !== 'op' && field !== 'bs' && field !== 'qd') || !value) {
      throw new BenchError(`--only ${condition}: give op=, bs= or qd=, for example --only qd=1`);
    }
    return left.filter((workload) => String(workload[field]) === value);
  }, all);
  if (selected.length === 0) {
    throw new BenchError(`--only ${only.join(' --only ')}: leaves nothing of ${all.map(describeWorkload).join('; ')}`);
  }
  return [...selected];
}
