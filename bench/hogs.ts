// Question: what do other programs that want a whole core each cost a disk? Client and I/O hypervisor have a core
// each, and a hog on it. With raised priority (worker.nice: -20) they should hardly notice; without, they get half of
// the processor at best, and must not collapse.
import { writeFileSync } from 'node:fs';
import { Cleanup } from '../test/lab/cleanup.js';
import { LabProcess } from '../test/lab/process.js';
import { Files } from './lib/files.js';
import { FILL, parseResult, runLoadgen } from './lib/loadgen.js';
import { describeMachine } from './lib/machine.js';
import { measureArgs } from './lib/measure.js';
import { median } from './lib/median.js';
import { CPUS, NICE } from './lib/network.js';
import { Progress } from './lib/progress.js';
import type { Integrity, Visit } from './lib/system.js';
import { SYSTEMS } from './lib/systems.js';
import { layOut } from './lib/table.js';
import { describeWorkload, type Workload } from './lib/workloads.js';

const SYSTEM = 'outrigger-ram';
const MTU = 9000;
const ORDINARY = 0;
/** How much the p99 may grow, and what must be left of the rate. */
export const HOGS_P99_FACTOR = 3;
export const HOGS_IOPS_SHARE = 0.1;

const WORKLOADS: readonly Workload[] = [
  { op: 'randread', bs: 4096, qd: 1 },
  { op: 'randread', bs: 4096, qd: 32 },
];

export interface HogsOptions {
  seconds: number;
  repeat: number;
  integrity: Integrity;
  json: string | undefined;
}

export interface HogsRow extends Workload {
  hogs: boolean;
  nice: number;
  iops: number;
  p50_us: number;
  p99_us: number;
}

export async function benchHogs(options: HogsOptions): Promise<void> {
  const cleanup = new Cleanup();
  cleanup.onSignals();
  try {
    const rows = await measureHogs(options, cleanup);
    process.stdout.write(formatHogs(rows));
    if (options.json !== undefined) {
      const result = { bench: 'hogs', machine: describeMachine(), integrity: options.integrity, rows };
      writeFileSync(options.json, `${JSON.stringify(result, null, 1)}\n`);
    }
  } finally {
    cleanup.run();
  }
}

/** Medians of `repeat` rounds. */
export async function measureHogs({ seconds, repeat, integrity }: HogsOptions, cleanup: Cleanup): Promise<HogsRow[]> {
  const files = new Files(256 * 1024 * 1024, cleanup);
  const progress = new Progress(repeat * 4);
  const measured: HogsRow[] = [];
  for (let round = 0; round < repeat; round++) {
    for (const nice of [NICE, ORDINARY]) {
      const own = new Cleanup();
      cleanup.add(() => own.run());
      const visit = { mtu: MTU, integrity, server: 'engine', vms: 1, workers: 1, files, cleanup: own, nice } as const;
      measured.push(...(await measureWithAndWithout(visit, seconds, progress)));
      own.run();
    }
  }
  progress.clear();
  return mediansOf(measured);
}

async function measureWithAndWithout(
  visit: Visit & { nice: number },
  seconds: number,
  progress: Progress,
): Promise<HogsRow[]> {
  const target = await SYSTEMS.find(({ name }) => name === SYSTEM)?.open(visit);
  if (target === undefined) {
    throw new Error(`there is no system ${SYSTEM}`);
  }
  await runLoadgen([...target.args, ...FILL], target.wrap);
  const rows: HogsRow[] = [];
  for (const hogs of [false, true]) {
    const running = hogs ? startHogs(visit) : [];
    progress.step(`${hogs ? 'a hog on each core' : 'no hogs'}, nice ${visit.nice}`);
    for (const workload of WORKLOADS) {
      const result = parseResult(await runLoadgen(measureArgs(workload, target, seconds), target.wrap));
      const { iops, p50_us, p99_us } = result;
      rows.push({ ...workload, hogs, nice: visit.nice, iops, p50_us, p99_us });
    }
    await Promise.all(running.map((hog) => hog.stop()));
  }
  await target.stop();
  return rows;
}

function startHogs({ files, cleanup }: Visit): LabProcess[] {
  return Object.values(CPUS).map(
    (cpu) =>
      new LabProcess({
        name: `hog${cpu}`,
        argv: ['taskset', '-c', `${cpu}`, 'sh', '-c', 'while :; do :; done'],
        logFile: `${files.directory()}/hog${cpu}.log`,
        cleanup,
      }),
  );
}

/** The same without hogs; undefined: not measured. */
const calmOf = (row: HogsRow, rows: readonly HogsRow[]) =>
  rows.find((other) => !other.hogs && other.qd === row.qd && other.nice === row.nice);

const isSameCase = (a: HogsRow, b: HogsRow) => a.qd === b.qd && a.hogs === b.hogs && a.nice === b.nice;

function mediansOf(measured: readonly HogsRow[]): HogsRow[] {
  return measured
    .filter((row, index) => measured.findIndex((other) => isSameCase(row, other)) === index)
    .map((row) => {
      const rounds = measured.filter((other) => isSameCase(row, other));
      const of = (key: 'iops' | 'p50_us' | 'p99_us') => median(rounds.map((round) => round[key]));
      return { ...row, iops: of('iops'), p50_us: of('p50_us'), p99_us: of('p99_us') };
    });
}

export interface HogsVerdict {
  met: boolean;
  ratio: number;
  aim: string;
  row: string;
}

/** Against the same without hogs. */
export function judgeHogs(rows: readonly HogsRow[]): HogsVerdict[] {
  return rows
    .filter(({ hogs }) => hogs)
    .flatMap((row) => {
      const calm = calmOf(row, rows);
      if (calm === undefined) {
        return [];
      }
      const raised = row.nice === NICE;
      const ratio = raised ? row.p99_us / calm.p99_us : row.iops / calm.iops;
      return [
        {
          met: raised ? ratio <= HOGS_P99_FACTOR : ratio >= HOGS_IOPS_SHARE,
          ratio,
          aim: raised
            ? `p99 at most ${HOGS_P99_FACTOR}x of the same without hogs, nice ${row.nice}`
            : `IOPS at least ${HOGS_IOPS_SHARE}x of the same without hogs, nice ${row.nice}`,
          row: describeWorkload(row),
        },
      ];
    });
}

export function formatHogs(rows: readonly HogsRow[]): string {
  const lines = rows.map((row) => {
    const calm = calmOf(row, rows);
    const ratio = (value: number, reference: number | undefined) =>
      row.hogs && reference !== undefined ? `${(value / reference).toFixed(2)}x` : '-';
    return [
      ...[describeWorkload(row), String(row.nice), row.hogs ? 'one on each core' : 'none'],
      ...[Math.round(row.iops).toLocaleString('en'), ratio(row.iops, calm?.iops)],
      ...[row.p50_us.toFixed(1), row.p99_us.toFixed(1), ratio(row.p99_us, calm?.p99_us)],
    ];
  });
  const heading = ['workload', 'nice', 'hogs', 'IOPS', 'of calm', 'p50 us', 'p99 us', 'of calm'];
  return `${layOut([heading, ...lines]).join('\n')}\n`;
}
