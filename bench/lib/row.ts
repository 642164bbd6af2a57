// One line of a result: a workload on a system, measured in one or several rounds.
import type { Figures, Result } from './loadgen.js';
import type { Integrity } from './system.js';
import type { Workload } from './workloads.js';

/** What of a row tells it from the others. mtu 0: no network in between. integrity none: not our protocol. */
export interface RowKey extends Workload {
  system: string;
  mtu: number;
  integrity: Integrity;
  /** Disks at the same time, `qd` operations in flight on each. */
  vms: number;
  /** Of the I/O hypervisor; 1 for whoever has none. */
  workers: number;
}

export interface Round extends Figures {
  /** Other programs used the same CPUs meanwhile. */
  disturbed: boolean;
}

/** The figures are those of the round with the median IOPS, so that they belong together. */
export interface Row extends RowKey, Result {
  disturbed: boolean;
  rounds: Round[];
}

export type Measured = RowKey & Result & { disturbed: boolean };

export function keyOf(row: RowKey): string {
  return JSON.stringify([row.system, row.mtu, row.integrity, row.vms, row.workers, row.op, row.bs, row.qd]);
}

/** "outrigger-vm x4, 2 workers mac MTU 9000" */
export function describeSystem({ system, vms, workers, integrity, mtu }: Omit<RowKey, keyof Workload>): string {
  const parts = [
    ...[describeVms({ system, vms, workers }), integrity === 'none' ? '' : integrity, mtu === 0 ? '' : `MTU ${mtu}`],
  ];
  return parts.filter((part) => part !== '').join(' ');
}

/** "outrigger-vm x4, 2 workers" */
export function describeVms({ system, vms, workers }: Pick<RowKey, 'system' | 'vms' | 'workers'>): string {
  return `${system}${vms > 1 ? ` x${vms}` : ''}${workers > 1 ? `, ${workers} workers` : ''}`;
}

export function rowOf(measured: readonly Measured[]): Row {
  const sorted = [...measured].sort((a, b) => a.iops - b.iops);
  const median = sorted[Math.floor((sorted.length - 1) / 2)];
  if (median === undefined) {
    throw new Error('a row without a measurement');
  }
  return { ...median, rounds: measured.map(roundOf) };
}

function roundOf({
  latency_ns: _,
  system: _s,
  mtu: _m,
  integrity: _i,
  vms: _v,
  workers: _w,
  op: _o,
  bs: _b,
  qd: _q,
  ...round
}: Measured): Round {
  return round;
}

/** Of everybody who takes part: driver, host agent, server. */
export function cpuUsPerIo(row: Figures): number {
  return row.client_cpu_us_per_io + row.agent_cpu_us_per_io + row.server_cpu_us_per_io;
}
