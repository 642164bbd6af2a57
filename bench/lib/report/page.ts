// The report: one page that needs nothing else, with the plots in it.
import type { Verdict } from '../aims.js';
import type { BlockResult } from '../result.js';
import { cpuUsPerIo, keyOf, type Row } from '../row.js';
import { describeWorkload, sameWorkload } from '../workloads.js';
import type { Plot } from './plots.js';
import { escapeXml } from './svg.js';

const STYLE = `
:root { color-scheme: light; }
body { font: 15px/1.5 "DejaVu Sans", "Helvetica Neue", Arial, sans-serif; color: #222; margin: 0 auto; max-width: 1240px; padding: 0 20px 60px; }
h1 { font-size: 26px; margin: 28px 0 4px; } h2 { font-size: 20px; margin: 40px 0 8px; border-bottom: 1px solid #ccc; padding-bottom: 4px; } h3 { font-size: 15px; margin: 24px 0 6px; }
p { max-width: 78ch; } .faint { color: #666; }
nav a { margin-right: 16px; } a { color: #0072b2; }
pre { background: #f4f4f4; padding: 10px 12px; white-space: pre-wrap; font-size: 13px; }
table { border-collapse: collapse; font-size: 13px; margin: 8px 0; } th, td { padding: 3px 10px; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th { font-weight: 600; border-bottom-color: #999; } .left { text-align: left; } .wrap { overflow-x: auto; }
.met { color: #00664a; font-weight: 600; } .missed { color: #a33c00; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 8px 0; } dt { color: #666; } dd { margin: 0; }
figure { margin: 14px 0; } figure svg { max-width: 100%; height: auto; border: 1px solid #e4e4e4; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(560px, 1fr)); gap: 14px; } .pair figure { margin: 0; }
`;

const SECTIONS: readonly { name: Plot['section']; about: string; paired: boolean }[] = [
  {
    name: 'Workloads',
    about:
      'One line for each system. A whisker on a bar goes from the worst round to the best. Volumes in memory and volumes on the disk are groups of their own: compare within one. Point at a mark for its figures. ! means that other programs used the same CPUs meanwhile.',
    paired: false,
  },
  {
    name: 'Queue depth',
    about: 'Both axes are logarithmic: equal distances are equal factors.',
    paired: true,
  },
  { name: 'Block size', about: 'Depth 8. Both axes are logarithmic: equal distances are equal factors.', paired: true },
  {
    name: 'Several VMs',
    about: 'As many disks at once, each with as many operations in flight as the title says. One worker serves all.',
    paired: true,
  },
  {
    name: 'Latency distribution',
    about:
      'Read upwards from a percentile: 99 % of the operations took at most this long. The more to the right, the rarer; each step is ten times rarer than the one before.',
    paired: true,
  },
];

const anchor = (name: string) => name.toLowerCase().replaceAll(' ', '-');

export function formatPage(
  results: readonly BlockResult[],
  rows: readonly Row[],
  plots: readonly Plot[],
  aims: readonly Verdict[],
): string {
  const sections = SECTIONS.filter(({ name }) => plots.some(({ section }) => section === name));
  const links = ['Machine', 'Aims', ...sections.map(({ name }) => name), 'Tables'];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Outrigger: block volumes</title>
<style>${STYLE}</style>
</head>
<body>
<h1>Outrigger: block volumes</h1>
<p class="faint">Measured ${escapeXml(results.map(({ started }) => started.replace(/\.\d+Z$/, 'Z')).join(', '))}. Ratios within one run are worth more than figures of two.</p>
<nav>${links.map((name) => `<a href="#${anchor(name)}">${name}</a>`).join('')}</nav>
<h2 id="machine">Machine</h2>
${results.map(formatMachine).join('\n')}
<h2 id="aims">Aims</h2>
${formatAimTable(aims)}
${sections.map((section) => formatSection(section, plots)).join('\n')}
<h2 id="tables">Tables</h2>
${formatTables(rows)}
</body>
</html>
`;
}

function formatMachine({ machine, command, seconds, rows, cpus }: BlockResult): string {
  const rounds = Math.max(0, ...rows.map((row) => row.rounds.length));
  const facts = [
    ['CPU', `${machine.cpu}, ${machine.cpus} in use`],
    ['memory', `${machine.memory_gib} GiB`],
    ['system', `${machine.system}, Linux ${machine.kernel}`],
    ...Object.entries(machine.versions),
    ['rows', `${seconds} s each, ${rounds} ${rounds === 1 ? 'round' : 'rounds, the median counts'}`],
  ];
  const list = facts.map(([name = '', value = '']) => `<dt>${escapeXml(name)}</dt><dd>${escapeXml(value)}</dd>`);
  const where = Object.entries(cpus).map(([name, value]) => `<dt>${escapeXml(name)}</dt><dd>${escapeXml(value)}</dd>`);
  return `<pre>${escapeXml(command)}</pre>
<dl>${list.join('')}</dl>
<h3>Which programs share CPUs</h3>
<dl>${where.join('')}</dl>`;
}

function table(headings: readonly string[], lines: readonly (readonly string[])[], left: number): string {
  const cell = (tag: string) => (content: string, column: number) =>
    `<${tag}${column < left ? ' class="left"' : ''}>${content}</${tag}>`;
  const body = lines.map((line) => `<tr>${line.map(cell('td')).join('')}</tr>`);
  return `<div class="wrap"><table><thead><tr>${headings.map(cell('th')).join('')}</tr></thead><tbody>${body.join('\n')}</tbody></table></div>`;
}

function formatAimTable(aims: readonly Verdict[]): string {
  if (aims.length === 0) {
    return '<p>Nothing was measured that has one.</p>';
  }
  const lines = aims.map(({ met, aim, ratio, row }) => [
    `<span class="${met ? 'met' : 'missed'}">${met ? 'met' : 'missed'}</span>`,
    escapeXml(aim),
    escapeXml(row),
    `${ratio.toFixed(2)}x`,
  ]);
  return table(['', 'aim', 'row', 'reached'], lines, 3);
}

function formatSection({ name, about, paired }: (typeof SECTIONS)[number], plots: readonly Plot[]): string {
  const figures = plots
    .filter(({ section }) => section === name)
    .map(({ file, svg }) => `<figure id="${escapeXml(file)}">${svg}</figure>`)
    .join('\n');
  return `<h2 id="${anchor(name)}">${name}</h2>
<p>${escapeXml(about)}</p>
${paired ? `<div class="pair">${figures}</div>` : figures}`;
}

function formatTables(rows: readonly Row[]): string {
  const headings = [
    ...['system', 'protection', 'MTU', 'VMs', 'workers', 'IOPS', 'p50 us', 'p99 us', 'p99.9 us', 'max us', 'MB/s'],
    ...['CPU us/io', 'loadgen', 'agent', 'server'],
  ];
  const workloads = rows.filter((row, index) => rows.findIndex((other) => sameWorkload(other, row)) === index);
  const tables = workloads.map((workload) => {
    const group = rows.filter((row) => sameWorkload(row, workload));
    return `<h3>${escapeXml(describeWorkload(workload))}</h3>\n${table(headings, group.map(formatRow), 2)}`;
  });
  const note = rows.some(({ disturbed }) => disturbed)
    ? '<p>! Other programs used the same CPUs meanwhile: do not trust this row.</p>'
    : '';
  return `${note}${tables.join('\n')}`;
}

function formatRow(row: Row): string[] {
  return [
    `${escapeXml(row.system)}${row.disturbed ? ' !' : ''}`,
    row.integrity === 'none' ? '' : row.integrity,
    row.mtu === 0 ? '' : String(row.mtu),
    String(row.vms),
    String(row.workers),
    Math.round(row.iops).toLocaleString('en'),
    ...[row.p50_us, row.p99_us, row.p999_us, row.max_us].map((value) => value.toFixed(1)),
    Math.round(row.mbps).toLocaleString('en'),
    cpuUsPerIo(row).toFixed(2),
    ...[row.client_cpu_us_per_io, row.agent_cpu_us_per_io, row.server_cpu_us_per_io].map((value) => value.toFixed(2)),
  ];
}

/** Of several results: of a row that is in more than one, the last. */
export function mergeRows(results: readonly BlockResult[]): Row[] {
  return [...new Map(results.flatMap(({ rows }) => rows.map((row) => [keyOf(row), row] as const))).values()];
}
