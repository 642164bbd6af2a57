// One workload, a line for each system, three figures side by side: operations per second, latency, CPU time.
import { cpuUsPerIo, type Row } from '../row.js';
import { linearScale, logScale, type Scale, short } from './scale.js';
import { drawMarker, styleOf } from './style.js';
import { element, FAINT, GRID, hint, line, picture, text } from './svg.js';

export interface PanelGroup {
  name: string;
  rows: readonly Row[];
}

const WIDTH = 1160;
const LABELS = 225;
const PANEL = 265;
const GAP = 42;
const TOP = 76;
const LINE = 24;
const BAR = 14;
const BOTTOM = 30;

/** Of driver, host agent and server; the same hue would say that they are systems. */
const CPU_PARTS = [
  ['loadgen', 'client_cpu_us_per_io', '#444'],
  ['host agent', 'agent_cpu_us_per_io', '#8a8a8a'],
  ['server', 'server_cpu_us_per_io', '#c4c4c4'],
] as const;

interface Placed {
  row: Row;
  label: string;
  /** Of the middle. */
  y: number;
}

const panelLeft = (index: number) => LABELS + index * (PANEL + GAP);

export function panelPlot(title: string, groups: readonly PanelGroup[], label: (row: Row) => string): string {
  const { placed, headings, bottom } = place(groups, label);
  const rows = placed.map(({ row }) => row);
  const [first, second, third] = [panelLeft(0), panelLeft(1), panelLeft(2)];
  const iops = linearScale(Math.max(...rows.flatMap(iopsOf)), first, first + PANEL);
  const times = rows.flatMap((row) => [row.p50_us, row.p999_us]);
  const latency = logScale(Math.min(...times), Math.max(...times), second, second + PANEL);
  const cpu = linearScale(Math.max(...rows.map(cpuUsPerIo)), third, third + PANEL);
  return picture(
    WIDTH,
    bottom + BOTTOM,
    title,
    text(first, 48, 'operations per second'),
    text(second, 48, 'latency, us: marker p50, bar to p99, tick p99.9'),
    ...cpuHeading(third),
    ...[iops, latency, cpu].flatMap((scale) => grid(scale, bottom)),
    ...headings,
    ...placed.flatMap(({ row, label: name, y }) => [
      text(LABELS - 12, y + 4, `${name}${row.disturbed ? ' !' : ''}`, { 'text-anchor': 'end' }),
      ...iopsBar(row, iops, y),
      ...latencyRange(row, latency, y),
      ...cpuBar(row, cpu, y),
    ]),
  );
}

function place(groups: readonly PanelGroup[], label: (row: Row) => string) {
  const placed: Placed[] = [];
  const headings: string[] = [];
  let y = TOP;
  for (const { name, rows } of groups.filter((group) => group.rows.length > 0)) {
    headings.push(text(12, y + 4, name, { 'font-weight': 600, fill: FAINT }));
    y += LINE;
    for (const row of rows) {
      placed.push({ row, label: label(row), y });
      y += LINE;
    }
    y += LINE / 3;
  }
  return { placed, headings, bottom: y };
}

const iopsOf = ({ iops, rounds }: Row) => [iops, ...rounds.map((round) => round.iops)];

function grid(scale: Scale, bottom: number): string[] {
  return scale.ticks.flatMap((tick) => [
    line(scale.at(tick), TOP - 10, scale.at(tick), bottom, { stroke: GRID }),
    text(scale.at(tick), bottom + 16, short(tick), { 'text-anchor': 'middle', fill: FAINT, 'font-size': 11 }),
  ]);
}

function bar(from: number, to: number, y: number, fill: string, ...content: string[]): string {
  const shape = { x: from, y: y - BAR / 2, width: Math.max(0.5, to - from), height: BAR, fill };
  return element('rect', shape, ...content);
}

/** With a whisker from the worst round to the best. */
function iopsBar(row: Row, scale: Scale, y: number): string[] {
  const [low, high] = [Math.min(...iopsOf(row)), Math.max(...iopsOf(row))];
  const end = scale.at(row.iops);
  const value = Math.round(row.iops).toLocaleString('en');
  // The figure stands behind the bar where there is room, else in it.
  const beyond = scale.at(high) + 6;
  const fits = beyond + value.length * 7 < scale.at(scale.ticks.at(-1) ?? 0);
  return [
    bar(scale.at(0), end, y, styleOf(row).colour, hint(`${value} IOPS; rounds ${short(low)} to ${short(high)}`)),
    ...(high > low ? [line(scale.at(low), y, scale.at(high), y, { stroke: '#000', 'stroke-width': 1.5 })] : []),
    fits
      ? text(beyond, y + 4, value, { 'font-size': 11 })
      : text(scale.at(0) + 6, y + 4, value, { 'font-size': 11, fill: '#fff', 'font-weight': 600 }),
  ];
}

function latencyRange(row: Row, scale: Scale, y: number): string[] {
  const style = styleOf(row);
  const [p50, p99, p999] = [scale.at(row.p50_us), scale.at(row.p99_us), scale.at(row.p999_us)];
  const words = `p50 ${row.p50_us.toFixed(1)} us, p99 ${row.p99_us.toFixed(1)} us, p99.9 ${row.p999_us.toFixed(1)} us`;
  const value = row.p50_us >= 100 ? row.p50_us.toFixed(0) : row.p50_us.toFixed(1);
  return [
    line(p50, y, p99, y, { stroke: style.colour, 'stroke-width': 5, 'stroke-opacity': 0.45 }),
    line(p99, y, p999, y, { stroke: style.colour, 'stroke-width': 1 }),
    line(p999, y - 5, p999, y + 5, { stroke: style.colour, 'stroke-width': 2 }),
    drawMarker(style, p50, y, hint(words)),
    text(p50 - 8, y + 4, value, { 'font-size': 11, 'text-anchor': 'end', ...HALO }),
  ];
}

/** Text over lines. */
const HALO = { stroke: '#fff', 'stroke-width': 3, 'paint-order': 'stroke' };

function cpuHeading(left: number): string[] {
  const legend = CPU_PARTS.flatMap(([name, , fill], index) => {
    const x = left + index * 82;
    return [element('rect', { x, y: 54, width: 10, height: 10, fill }), text(x + 14, 63, name, { 'font-size': 11 })];
  });
  return [text(left, 48, 'CPU time per operation, us'), ...legend];
}

function cpuBar(row: Row, scale: Scale, y: number): string[] {
  let sum = 0;
  const parts = CPU_PARTS.map(([name, key, fill]) => {
    const from = sum;
    sum += row[key];
    return bar(scale.at(from), scale.at(sum), y, fill, hint(`${name} ${row[key].toFixed(2)} us`));
  });
  return [...parts, text(scale.at(sum) + 6, y + 4, sum.toFixed(sum < 10 ? 1 : 0), { 'font-size': 11, ...HALO })];
}
