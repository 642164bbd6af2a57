// The tables at the end: for each workload every row, against the best NBD server and the bare TCP echo; for a
// sweep one table, a column for each value.
import { describeSystem, describeVms, type Row } from './row.js';
import { describeBytes, describeWorkload, SWEEPS, sameWorkload, type Workload } from './workloads.js';

const HEADINGS = [
  ...['system', 'mtu', 'integrity', 'IOPS', 'p50 us', 'p99 us', 'MB/s', 'cpu us/io', 'agent', 'server'],
  ...['p50/nbd', 'IOPS/nbd', 'p50/tcp', 'IOPS/tcp'],
];
const LEFT_ALIGNED = 3;

interface Reference {
  p50_us: number;
  iops: number;
}

/** A workload of its own, or a sweep: in more than one row by depth or by block size. */
export function formatTables(rows: readonly Row[], workloads: readonly Workload[]): string {
  const isStandard = (workload: Workload) => SWEEPS.standard.some((other) => sameWorkload(other, workload));
  const lines = workloads.filter(isStandard).flatMap((workload) => {
    const group = rows.filter((row) => sameWorkload(row, workload));
    return ['', describeWorkload(workload), ...layOut([HEADINGS, ...group.map((row) => cells(row, group))])];
  });
  for (const axis of ['qd', 'bs'] as const) {
    for (const op of ['randread', 'randwrite'] as const) {
      const swept = workloads
        .filter((workload) => workload.op === op && SWEEPS[axis].some((other) => sameWorkload(other, workload)))
        .sort((a, b) => a[axis] - b[axis]);
      if (swept.some((workload) => !isStandard(workload))) {
        lines.push(...formatSweep(rows, axis, op, swept));
      }
    }
  }
  if (rows.some(({ disturbed }) => disturbed)) {
    lines.push('', '! other programs used the same CPUs meanwhile: do not trust this row');
  }
  return `${lines.join('\n')}\n`;
}

function formatSweep(rows: readonly Row[], axis: 'qd' | 'bs', op: string, swept: readonly Workload[]): string[] {
  const values = swept.map((workload) => workload[axis]);
  const fixed = axis === 'qd' ? describeBytes(swept[0]?.bs ?? 0) : `depth ${swept[0]?.qd ?? 0}`;
  const own = rows.filter(
    (row) => row.vms === 1 && row.workers === 1 && swept.some((workload) => sameWorkload(row, workload)),
  );
  const systems = [...new Set(own.map((row) => describeSystem(row)))];
  const figures = [
    ['IOPS', (row: Row) => Math.round(row.iops).toLocaleString('en')],
    ['p50 us', (row: Row) => row.p50_us.toFixed(1)],
  ] as const;
  return figures.flatMap(([name, show]) => {
    const heading = [`${name} of ${op}, ${fixed}, by ${axis === 'qd' ? 'depth' : 'block'}`];
    const lines = systems.map((system) => [
      system,
      ...swept.map((workload) => {
        const row = own.find((other) => describeSystem(other) === system && sameWorkload(other, workload));
        return row === undefined ? '-' : `${show(row)}${row.disturbed ? '!' : ''}`;
      }),
    ]);
    const columns = values.map((value) => (axis === 'qd' ? String(value) : describeBytes(value)));
    return ['', ...layOut([[...heading, ...columns], ...lines], 1)];
  });
}

function cells(row: Row, group: readonly Row[]): string[] {
  const near = group.filter((other) => (row.mtu === 0 || other.mtu === row.mtu) && other.vms === row.vms);
  const nbd = bestOf(near.filter(isNbd));
  const tcp = bestOf(near.filter((other) => other.system === 'tcp-echo'));
  return [
    `${describeVms(row)}${row.disturbed ? ' !' : ''}`,
    row.mtu === 0 ? '-' : String(row.mtu),
    row.integrity === 'none' ? '-' : row.integrity,
    Math.round(row.iops).toLocaleString('en'),
    row.p50_us.toFixed(1),
    row.p99_us.toFixed(1),
    Math.round(row.mbps).toLocaleString('en'),
    row.client_cpu_us_per_io.toFixed(2),
    row.agent_cpu_us_per_io === 0 ? '-' : row.agent_cpu_us_per_io.toFixed(2),
    row.server_cpu_us_per_io.toFixed(2),
    ratio(row.p50_us, nbd?.p50_us),
    ratio(row.iops, nbd?.iops),
    ratio(row.p50_us, tcp?.p50_us),
    ratio(row.iops, tcp?.iops),
  ];
}

/** The NBD servers that hold their volume in memory, as outrigger-ram does. */
function isNbd(row: Row): boolean {
  return ['qemu-nbd', 'nbdkit-file', 'nbdkit-memory'].includes(row.system);
}

/** The best of each figure, wherever it comes from. */
function bestOf(rows: readonly Row[]): Reference | undefined {
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
