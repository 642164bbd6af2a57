// Which plots the rows of a result make: for each workload its systems side by side and the latencies' distribution;
// for each sweep its lines.
import type { Bucket } from '../loadgen.js';
import { describeSystem, type Row } from '../row.js';
import { describeBytes, describeWorkload, SWEEPS, sameWorkload, type Workload } from '../workloads.js';
import { type Axis, linePlot, type Series } from './line-plot.js';
import { panelPlot } from './panel-plot.js';
import { logScale, type Scale, stepScale } from './scale.js';
import { isOnDisk, styleOf } from './style.js';

export interface Plot {
  /** Without its ending. */
  file: string;
  section: 'Workloads' | 'Latency distribution' | 'Queue depth' | 'Block size' | 'Several VMs';
  svg: string;
}

/** A sweep needs so many values to be a line. */
const POINTS_MIN = 3;

export function plotsOf(rows: readonly Row[]): Plot[] {
  const shown = rows.filter(({ iops, p50_us }) => iops > 0 && p50_us > 0);
  const standard = SWEEPS.standard.filter((workload) => shown.some((row) => sameWorkload(row, workload)));
  return mtusOf(shown).flatMap((mtu) => {
    const linked = shown.filter((row) => row.mtu === mtu || row.mtu === 0);
    const single = linked.filter(({ vms, workers }) => vms === 1 && workers === 1);
    return [
      ...standard.flatMap((workload) => workloadPlots(single, workload, mtu)),
      ...(['qd', 'bs'] as const).flatMap((axis) => sweepPlots(single, axis, mtu)),
      ...standard.flatMap((workload) => vmPlots(linked, workload, mtu)),
    ];
  });
}

function mtusOf(rows: readonly Row[]): number[] {
  const mtus = [...new Set(rows.map(({ mtu }) => mtu).filter((mtu) => mtu > 0))];
  return mtus.length > 0 ? mtus : [0];
}

const atMtu = (mtu: number) => (mtu === 0 ? '' : `, MTU ${mtu}`);
const nameOf = (row: Row) => describeSystem({ ...row, mtu: 0, vms: 1 });

/** Apart, because one is compared with the other only by mistake. */
function byStorage(rows: readonly Row[]): { storage: string; file: string; rows: Row[] }[] {
  return [
    { storage: 'in memory', file: 'memory', rows: rows.filter((row) => !isOnDisk(row)) },
    { storage: 'on the disk', file: 'disk', rows: rows.filter(isOnDisk) },
  ].filter((group) => group.rows.length > 0);
}

function workloadPlots(all: readonly Row[], workload: Workload, mtu: number): Plot[] {
  const rows = all.filter((row) => sameWorkload(row, workload));
  if (rows.length === 0) {
    return [];
  }
  const title = `${describeWorkload(workload)}${atMtu(mtu)}`;
  const file = `${workload.op}-${workload.bs}-qd${workload.qd}-mtu${mtu}`;
  const groups = byStorage(rows).map(({ storage, rows: some }) => ({ name: storage, rows: some }));
  return [
    { file, section: 'Workloads', svg: panelPlot(title, groups, nameOf) },
    ...byStorage(rows).flatMap(({ storage, file: kind, rows: some }) => {
      const series = some.filter(({ latency_ns }) => latency_ns.length > 0).map(distribution);
      return series.length === 0
        ? []
        : [
            {
              ...{ file: `latency-${file}-${kind}`, section: 'Latency distribution' as const },
              svg: linePlot({ title: `Latency of ${title}, ${storage}`, x: PERCENTILES, y: times(series), series }),
            },
          ];
    }),
  ];
}

// ---- the distribution: how long the slowest 10 %, 1 %, 0.1 % ... took

const PERCENT_TICKS = [0.5, 0.9, 0.99, 0.999, 0.9999];
/** Equal room for each nine. */
const nines = (fraction: number) => -Math.log10(1 - fraction);

const PERCENTILES: Axis = {
  label: 'percentile: so many of the operations took at most this long',
  scale: (from, to) => {
    const end = nines(PERCENT_TICKS.at(-1) ?? 0.9999);
    return { at: (fraction) => from + (nines(fraction) / end) * (to - from), ticks: [0, ...PERCENT_TICKS] };
  },
  show: (fraction) => `${Number((fraction * 100).toFixed(2))} %`,
};

/** What operations took at `fractions`, from a histogram, us. */
export function percentiles(buckets: readonly Bucket[], fractions: readonly number[]): number[] {
  const total = buckets.reduce((sum, [, count]) => sum + count, 0);
  return fractions.map((fraction) => {
    let seen = 0;
    const bucket = buckets.find(([, count]) => {
      seen += count;
      return seen >= fraction * total;
    });
    return (bucket?.[0] ?? buckets.at(-1)?.[0] ?? 0) / 1000;
  });
}

/** Twenty points between two nines. */
const PER_NINE = 20;
const CURVE = Array.from({ length: 4 * PER_NINE + 1 }, (_, index) => 1 - 10 ** (-index / PER_NINE));

function distribution(row: Row): Series {
  const name = nameOf(row);
  const values = percentiles(row.latency_ns, CURVE);
  const points = CURVE.map((x, index) => {
    const y = values[index] ?? 0;
    const isNine = index > 0 && index % PER_NINE === 0;
    return { x, y, ...(isNine && { hint: `${name}: ${PERCENTILES.show?.(x)} within ${y.toFixed(1)} us` }) };
  });
  return { name, style: styleOf(row), points: points.filter(({ y }) => y > 0) };
}

// ---- lines

type Figure = readonly [name: string, file: string, of: (row: Row) => number];

const IOPS: Figure = ['operations per second', 'iops', (row) => row.iops];
const MBPS: Figure = ['MB/s', 'mbps', (row) => row.mbps];
const P50: Figure = ['latency p50, us', 'p50', (row) => row.p50_us];
const P99: Figure = ['latency p99, us', 'p99', (row) => row.p99_us];

function times(series: readonly Series[], label = 'latency, us'): Axis {
  const values = series.flatMap(({ points }) => points.map(({ y }) => y));
  return { label, scale: (from, to): Scale => logScale(Math.min(...values), Math.max(...values), from, to) };
}

interface Lines {
  rows: readonly Row[];
  x: { label: string; of: (row: Row) => number; show?: (value: number) => string };
  figure: Figure;
  title: string;
}

/** undefined: not enough for a line. */
function lines({ rows, x, figure: [name, , of], title }: Lines): string | undefined {
  const series = [...new Set(rows.map(nameOf))].flatMap((system): Series[] => {
    const own = rows.filter((row) => nameOf(row) === system).sort((a, b) => x.of(a) - x.of(b));
    const [first] = own;
    const show = x.show ?? String;
    const points = own.map((row) => ({
      ...{ x: x.of(row), y: of(row) },
      hint: `${system}, ${show(x.of(row))}: ${Number(of(row).toFixed(1))} ${name}`,
    }));
    return first !== undefined && points.length >= POINTS_MIN ? [{ name: system, style: styleOf(first), points }] : [];
  });
  if (series.length === 0) {
    return undefined;
  }
  const values = series.flatMap(({ points }) => points.map((point) => point.x));
  const axis: Axis = {
    ...{ label: x.label, show: x.show ?? String },
    scale: (from, to) => stepScale(values, from, to),
  };
  return linePlot({ title, x: axis, y: times(series, name), series });
}

const SWEPT = {
  qd: {
    section: 'Queue depth',
    label: 'operations in flight',
    fixed: (row: Row) => row.bs,
    show: String,
    figures: [IOPS, P50],
    title: (row: Row) => `${describeBytes(row.bs)} ${row.op}`,
  },
  bs: {
    section: 'Block size',
    label: 'bytes of an operation',
    fixed: (row: Row) => row.qd,
    show: (bytes: number) => describeBytes(bytes).replace(/ (.)i?B?$/, '$1'),
    figures: [MBPS, P50],
    title: (row: Row) => `${row.op}, depth ${row.qd}`,
  },
} as const;

function sweepPlots(rows: readonly Row[], axis: 'qd' | 'bs', mtu: number): Plot[] {
  const { section, label, fixed, show, figures, title } = SWEPT[axis];
  const kinds = new Map<string, Row[]>();
  for (const row of rows) {
    const kind = `${row.op}-${fixed(row)}`;
    kinds.set(kind, [...(kinds.get(kind) ?? []), row]);
  }
  return [...kinds].flatMap(([kind, all]) =>
    byStorage(all).flatMap(({ storage, file, rows: some }) =>
      figures.flatMap((figure): Plot[] => {
        const [first] = some;
        const x = { label, of: (row: Row) => row[axis], show };
        const words = first === undefined ? '' : `${title(first)}${atMtu(mtu)}, ${storage}: ${figure[0]}`;
        const svg = lines({ rows: some, x, figure, title: words });
        return svg === undefined ? [] : [{ file: `${axis}-${kind}-${file}-${figure[1]}-mtu${mtu}`, section, svg }];
      }),
    ),
  );
}

function vmPlots(all: readonly Row[], workload: Workload, mtu: number): Plot[] {
  const rows = all.filter((row) => sameWorkload(row, workload));
  const x = { label: 'VMs, each with a disk and as many operations in flight', of: (row: Row) => row.vms };
  return byStorage(rows).flatMap(({ storage, file: kind, rows: some }) =>
    [IOPS, P99].flatMap((figure): Plot[] => {
      const title = `${describeWorkload(workload)}${atMtu(mtu)}, ${storage}: ${figure[0]} of all VMs`;
      const svg = lines({ rows: some, x, figure, title });
      const file = `vms-${workload.op}-${workload.bs}-qd${workload.qd}-${kind}-${figure[1]}-mtu${mtu}`;
      return svg === undefined ? [] : [{ file, section: 'Several VMs', svg }];
    }),
  );
}
