// Question: how fast is a block volume behind Outrigger, compared with its peers and its limits?
//
// All systems are measured by the same program (native/load.c) in the same run, over the same veth
// pair: the client on one CPU, the far end on another. README.md tells the method.
import { writeFileSync } from 'node:fs';
import { Cleanup } from '../test/lab/cleanup.js';
import { messageOf } from '../test/lab/errors.js';
import { busyPercent, isDisturbed } from './lib/disturbance.js';
import { BenchError } from './lib/errors.js';
import { Files } from './lib/files.js';
import { FILL, loadgenProgram, parseResult, type Result, runLoadgen } from './lib/loadgen.js';
import { Progress } from './lib/progress.js';
import { type Integrity, type ServerKind, SYSTEMS, type System, type Target, type Visit } from './lib/systems.js';
import { bestOf, formatTable, isNbd, sameWorkload } from './lib/table.js';
import { describeWorkload, selectWorkloads, type Workload } from './lib/workloads.js';

export interface BlockOptions {
  seconds: number;
  repeat: number;
  mtus: readonly number[];
  systems: readonly string[];
  only: readonly string[];
  integrities: readonly string[];
  volumeMib: number;
  server: ServerKind;
  json: string | undefined;
}

/** One line of the result. mtu 0: no network in between. integrity none: not our protocol. */
export interface Row extends Workload, Result {
  system: string;
  mtu: number;
  integrity: Integrity;
  /** Other programs used the same CPUs meanwhile. */
  disturbed: boolean;
}

/** One far end to start, and what to measure against it. */
interface Stop {
  system: System;
  mtu: number;
  integrity: Integrity;
}

/** How often a row is measured at most while other programs disturb it. */
const TRIES = 2;

export async function benchBlock(options: BlockOptions): Promise<void> {
  const workloads = selectWorkloads(options.only);
  const stops = planStops(options);
  // What would fail after minutes shall fail now.
  loadgenProgram();
  if (options.json !== undefined) {
    writeFileSync(options.json, '[]\n');
  }
  const cleanup = new Cleanup();
  cleanup.onSignals();
  try {
    const measured = await measureAll(options, stops, workloads, cleanup);
    const rows = [...measured.values()].map(medianRow);
    process.stdout.write(formatTable(rows, workloads));
    process.stdout.write(formatAims(rows));
    if (options.json !== undefined) {
      writeFileSync(options.json, `${JSON.stringify(rows, null, 1)}\n`);
    }
  } finally {
    cleanup.run();
  }
}

function planStops({ systems, mtus, integrities }: BlockOptions): Stop[] {
  const known = SYSTEMS.map(({ name }) => name);
  const unknown = systems.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new BenchError(`--systems: there is no ${unknown}; there are ${known.join(', ')}`);
  }
  const chosen = SYSTEMS.filter(({ name, byDefault }) => (systems.length > 0 ? systems.includes(name) : byDefault));
  return mtus.flatMap((mtu, index) =>
    chosen.flatMap((system) => {
      if (system.kind === 'local') {
        return index === 0 ? [{ system, mtu: 0, integrity: 'none' as const }] : [];
      }
      return system.integrities
        .filter((integrity) => integrity === 'none' || integrities.includes(integrity))
        .map((integrity) => ({ system, mtu, integrity }));
    }),
  );
}

/** Repeats go round all systems, so that a slow minute of the machine does not hit one of them only. */
async function measureAll(
  options: BlockOptions,
  stops: readonly Stop[],
  workloads: readonly Workload[],
  cleanup: Cleanup,
): Promise<Map<string, Row[]>> {
  const files = new Files(options.volumeMib * 1024 * 1024, cleanup);
  const progress = new Progress(options.repeat * stops.length * workloads.length);
  const rows = new Map<string, Row[]>();
  for (let round = 0; round < options.repeat; round++) {
    for (const stop of stops) {
      const own = new Cleanup();
      cleanup.add(() => own.run());
      const { mtu, integrity } = stop;
      const visit = { mtu, integrity, server: options.server, files, cleanup: own };
      for (const row of await measureSystem(stop.system, visit, workloads, options.seconds, progress)) {
        const key = JSON.stringify([row.system, row.mtu, row.integrity, row.op, row.bs, row.qd]);
        rows.set(key, [...(rows.get(key) ?? []), row]);
      }
      own.run();
    }
  }
  progress.clear();
  return rows;
}

async function measureSystem(
  system: System,
  visit: Visit,
  workloads: readonly Workload[],
  seconds: number,
  progress: Progress,
): Promise<Row[]> {
  const { mtu, integrity } = visit;
  const where = [system.name, ...(integrity === 'none' ? [] : [integrity]), ...(mtu === 0 ? [] : [`MTU ${mtu}`])];
  const target = await system.open(visit);
  const rows: Row[] = [];
  try {
    if (system.needsFill) {
      await runLoadgen([...target.args, ...FILL], target.wrap);
    }
    for (const workload of workloads) {
      progress.step(`${where.join(' ')}: ${describeWorkload(workload)}`);
      const result = await measure(target, measureArgs(workload, target, seconds));
      rows.push({ system: system.name, ...workload, mtu, integrity, ...result });
    }
  } catch (error) {
    const log = target.log();
    throw new BenchError(`${system.name}: ${messageOf(error)}${log === '' ? '' : `\nits server said:\n${log}`}`);
  }
  await target.stop();
  return rows;
}

interface Measured extends Result {
  disturbed: boolean;
}

/** Measures again when other programs disturbed; returns the last result. */
async function measure(target: Target, args: readonly string[]): Promise<Measured> {
  let busyBefore = await busyPercent();
  for (let attempt = 1; ; attempt++) {
    const result = parseResult(await runLoadgen(args, target.wrap));
    const busyAfter = await busyPercent();
    const disturbed = isDisturbed(busyBefore, busyAfter, result.cpu_wait_percent);
    if (!disturbed || attempt === TRIES) {
      return { ...result, disturbed };
    }
    busyBefore = busyAfter;
  }
}

function measureArgs({ op, bs, qd }: Workload, { args, pids }: Target, seconds: number): string[] {
  return [
    ...args,
    ...['--op', op, '--bs', String(bs), '--qd', String(qd), '--seconds', String(seconds), '--json'],
    ...(pids.length > 0 ? ['--server-pid', pids.join(',')] : []),
  ];
}

/** The whole row of the round with the median IOPS, so that its figures belong together. */
function medianRow(rounds: Row[]): Row {
  const sorted = [...rounds].sort((a, b) => a.iops - b.iops);
  const median = sorted[Math.floor((sorted.length - 1) / 2)];
  if (median === undefined) {
    throw new Error('a row without a measurement');
  }
  return median;
}

/** What the RAM volume should reach against the best NBD server, and whether it does. */
function formatAims(rows: readonly Row[]): string {
  const lines = rows
    .filter((row) => row.system === 'outrigger-ram' && row.bs === 4096)
    .flatMap((row) => {
      const best = bestOf(rows.filter((other) => isNbd(other) && other.mtu === row.mtu && sameWorkload(other, row)));
      if (best === undefined) {
        return [];
      }
      const [ratio, aim, met] =
        row.qd === 1
          ? [row.p50_us / best.p50_us, 'p50 at most 0.4x', row.p50_us <= 0.4 * best.p50_us]
          : [row.iops / best.iops, 'IOPS at least 3x', row.iops >= 3 * best.iops];
      const what = `${describeWorkload(row)}, MTU ${row.mtu}, ${row.integrity}`;
      return [`  ${met ? 'met   ' : 'missed'}  ${aim}: ${ratio.toFixed(2)}x  (${what})`];
    });
  return lines.length === 0 ? '' : `\nAims of outrigger-ram against the best NBD server:\n${lines.join('\n')}\n`;
}
