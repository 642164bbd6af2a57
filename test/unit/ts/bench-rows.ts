// Rows of the benchmark for its tests: every figure 1 unless given.
import { type Measured, type Row, rowOf } from '../../../bench/lib/row.js';

export function measured(figures: Partial<Measured> = {}): Measured {
  return {
    ...{ system: 'a', mtu: 0, integrity: 'none', vms: 1, workers: 1, op: 'randread', bs: 4096, qd: 1 },
    ...{ iops: 1, mbps: 1, p50_us: 1, p99_us: 1, p999_us: 1, max_us: 1, errors: 0, cpu_wait_percent: 0 },
    ...{ client_cpu_us_per_io: 1, agent_cpu_us_per_io: 1, server_cpu_us_per_io: 1 },
    ...{ latency_ns: [], disturbed: false },
    ...figures,
  };
}

export const benchRow = (figures: Partial<Measured> = {}): Row => rowOf([measured(figures)]);
