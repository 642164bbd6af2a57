// The table at the end, with every row against the best NBD server and against the bare TCP echo.
import type { Row } from '../block.js';
import { describeWorkload, type Workload } from './workloads.js';

const HEADINGS = [
  ...['system', 'mtu', 'integrity', 'IOPS', 'p50 us', 'p99 us', 'MB/s', 'cpu us/io', 'server'],
  ...['p50/nbd', 'IOPS/nbd', 'p50/tcp', 'IOPS/tcp'],
];
const LEFT_ALIGNED = 3;

interface Reference {
  p50_us: number;
  iops: number;
}

export function formatTable(rows: readonly Row[], workloads: readonly Workload[]): string {
  const lines: string[] = [];
  for (const workload of workloads) {
    const group = rows.filter((row) => sameWorkload(row, workload));
    lines.push('', describeWorkload(workload), ...layOut([HEADINGS, ...group.map((row) => cells(row, group))]));
  }
  if (rows.some(({ disturbed }) => disturbed)) {
    lines.push('', '! other programs used the same CPUs meanwhile: do not trust this row');
  }
  return `${lines.join('\n')}\n`;
}

function cells(row: Row, group: readonly Row[]): string[] {
  const near = group.filter((other) => row.mtu === 0 || other.mtu === row.mtu);
  const nbd = bestOf(near.filter(isNbd));
  const tcp = bestOf(near.filter((other) => other.system === 'tcp-echo'));
  return [
    `${row.system}${row.disturbed ? ' !' : ''}`,
    row.mtu === 0 ? '-' : String(row.mtu),
    row.integrity === 'none' ? '-' : row.integrity,
    Math.round(row.iops).toLocaleString('en'),
    row.p50_us.toFixed(1),
    row.p99_us.toFixed(1),
    Math.round(row.mbps).toLocaleString('en'),
    row.client_cpu_us_per_io.toFixed(2),
    row.server_cpu_us_per_io.toFixed(2),
    ratio(row.p50_us, nbd?.p50_us),
    ratio(row.iops, nbd?.iops),
    ratio(row.p50_us, tcp?.p50_us),
    ratio(row.iops, tcp?.iops),
  ];
}

export function sameWorkload(a: Workload, b: Workload): boolean {
  return a.op === b.op && a.bs === b.bs && a.qd === b.qd;
}

/** The NBD servers that hold their volume in memory, as outrigger-ram does. */
export function isNbd(row: Row): boolean {
  return ['qemu-nbd', 'nbdkit-file', 'nbdkit-memory'].includes(row.system);
}

/** The best of each figure, wherever it comes from. */
export function bestOf(rows: readonly Row[]): Reference | undefined {
  const good = rows.filter(({ iops }) => iops > 0);
  if (good.length === 0) {
    return undefined;
  }
  return { p50_us: Math.min(...good.map((r) => r.p50_us)), iops: Math.max(...good.map((r) => r.iops)) };
}

function ratio(value: number, reference: number | undefined): string {
  return reference === undefined ? '-' : `${(value / reference).toFixed(2)}x`;
}

/** Columns of equal width; the first ones are words, the others numbers. */
export function layOut(table: readonly (readonly string[])[], leftAligned = LEFT_ALIGNED): string[] {
  const widths = (table[0] ?? []).map((_, column) => Math.max(...table.map((line) => line[column]?.length ?? 0)));
  return table.map((line) =>
    line
      .map((cell, column) =>
        column < leftAligned ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
      )
      .join('  '),
  );
}
