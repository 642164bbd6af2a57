// What is measured, and the filter of --only.
import { BenchError } from './errors.js';

export interface Workload {
  op: 'randread' | 'randwrite' | 'read' | 'write';
  bs: number;
  qd: number;
}

const WORKLOADS: readonly Workload[] = [
  { op: 'randread', bs: 4096, qd: 1 },
  { op: 'randwrite', bs: 4096, qd: 1 },
  { op: 'randread', bs: 4096, qd: 32 },
  { op: 'randwrite', bs: 4096, qd: 32 },
  { op: 'read', bs: 131072, qd: 8 },
  { op: 'write', bs: 131072, qd: 8 },
];

export function describeWorkload(workload: Workload): string {
  return `${workload.bs / 1024} KiB ${workload.op}, depth ${workload.qd}`;
}

/** The workloads that match every given `field=value`. */
export function selectWorkloads(only: readonly string[]): Workload[] {
  const selected = only.reduce<readonly Workload[]>((left, condition) => {
    const [field, value] = condition.split('=');
    if ((field !== 'op' && field !== 'bs' && field !== 'qd') || !value) {
      throw new BenchError(`--only ${condition}: give op=, bs= or qd=, for example --only qd=1`);
    }
    return left.filter((workload) => String(workload[field]) === value);
  }, WORKLOADS);
  if (selected.length === 0) {
    throw new BenchError(
      `--only ${only.join(' --only ')}: leaves nothing of ${WORKLOADS.map(describeWorkload).join('; ')}`,
    );
  }
  return [...selected];
}
