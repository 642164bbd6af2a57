// Question: what do several workers give, and what each policy of placing volumes on them? Quiet disks beside loud
// ones, with one worker and with two under every policy: how long a quiet disk's read takes (blocking), what all loud
// ones get together (throughput), and how busy the workers are (utilisation).
//
// All runs of one policy use the same I/O hypervisor; the policies that move volumes get the time for it before the
// measurement begins.
import { appendFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { VolumeView, WorkerView } from '../src/api/schemas.js';
import { Cleanup } from '../test/lab/cleanup.js';
import { Outrigger } from '../test/lab/outrigger.js';
import { median } from './lib/median.js';
import { Progress } from './lib/progress.js';
import { layOut } from './lib/table.js';
import { addDisk, beLoud, type LOUD, readQuiet } from './lib/vm-disks.js';

const MTU = 9000;
const PLACEMENTS = ['one worker', 'static', 'round-robin', 'least-loaded', 'isolate'] as const;
/** Three looks at the load in a row, and a move or two. */
const SETTLE_S = 8;
/** Enough to ask for volumes and workers on a busy machine, after the reading, which that would disturb. */
const TAIL_S = 5;

type Placement = (typeof PLACEMENTS)[number];

export interface DispatchOptions {
  seconds: number;
  repeat: number;
  /** Disks of each sort. */
  quiet: number;
  loud: number;
  what: keyof typeof LOUD;
  json: string | undefined;
}

export interface DispatchRow {
  placement: Placement;
  p50_us: number;
  p99_us: number;
  /** Of all loud disks together. */
  loud_mbps: number;
  /** Of each worker, 0 to 1. */
  utilisation: number[];
  /** Worker of each volume during the measurement. */
  workers: Record<string, number>;
}

interface Machine {
  lab: Outrigger;
  quiet: string[];
  loud: string[];
}

async function openMachine(placement: Placement, options: DispatchOptions, cleanup: Cleanup): Promise<Machine> {
  const lab = await Outrigger.open({ mtu: MTU, cleanup, workers: 1 });
  if (placement !== 'one worker') {
    appendFileSync(lab.configFile('iohv'), `worker:\n  count: 2\n  placement: ${placement}\n`);
  }
  await lab.startBoth();
  const add = async (count: number, name: string) => {
    const sockets: string[] = [];
    for (let n = 0; n < count; n++) {
      sockets.push(await addDisk(lab, 'host', `${name}${n}`));
    }
    return sockets;
  };
  return { lab, quiet: await add(options.quiet, 'quiet'), loud: await add(options.loud, 'loud') };
}

async function ask<T>(lab: Outrigger, ...command: string[]): Promise<T[]> {
  return JSON.parse(await lab.cli('iohv', ...command, '--json')) as T[];
}

async function measure(
  machine: Machine,
  placement: Placement,
  { seconds, what }: DispatchOptions,
  cleanup: Cleanup,
): Promise<DispatchRow> {
  const { lab, quiet, loud } = machine;
  const lasting = SETTLE_S + seconds + TAIL_S;
  const results = loud.map((socket) => beLoud({ lab, host: 'host', socket, what, seconds: lasting, cleanup }));
  await sleep(SETTLE_S * 1000);
  const { p50_us, p99_us } = await readQuiet(lab, quiet, seconds);
  const workers = await ask<WorkerView>(lab, 'worker', 'ls');
  const volumes = await ask<VolumeView>(lab, 'volume', 'ls');
  const loud_mbps = (await Promise.all(results.map((result) => result()))).reduce((sum, { mbps }) => sum + mbps, 0);
  return {
    ...{ placement, p50_us, p99_us, loud_mbps },
    utilisation: workers.map(({ utilisation }) => utilisation),
    workers: Object.fromEntries(volumes.map(({ name, worker }) => [name, worker ?? 0])),
  };
}

export async function benchDispatch(options: DispatchOptions): Promise<void> {
  const rows: DispatchRow[] = [];
  const progress = new Progress(options.repeat * PLACEMENTS.length);
  for (const placement of PLACEMENTS) {
    const cleanup = new Cleanup();
    cleanup.onSignals();
    try {
      const machine = await openMachine(placement, options, cleanup);
      for (let round = 0; round < options.repeat; round++) {
        progress.step(placement);
        rows.push(await measure(machine, placement, options, cleanup));
      }
      await machine.lab.stop();
    } finally {
      cleanup.run();
    }
  }
  progress.clear();
  process.stdout.write(`${formatRows(rows)}\n`);
  if (options.json !== undefined) {
    writeFileSync(options.json, `${JSON.stringify(rows, null, 2)}\n`);
  }
}

function formatRows(rows: readonly DispatchRow[]): string {
  const line = (placement: Placement) => {
    const own = rows.filter((row) => row.placement === placement);
    const of = (key: 'p50_us' | 'p99_us' | 'loud_mbps') => median(own.map((row) => row[key]));
    const last = own.at(-1);
    const on = (worker: number) =>
      Object.entries(last?.workers ?? {})
        .filter(([, at]) => at === worker)
        .map(([name]) => name)
        .join(' ');
    return [
      ...[placement, of('p50_us').toFixed(0), of('p99_us').toFixed(0), of('loud_mbps').toFixed(0)],
      last?.utilisation.map((part) => part.toFixed(2)).join(' ') ?? '',
      (last?.utilisation ?? []).map((_, worker) => on(worker)).join(' | '),
    ];
  };
  const head = ['', 'quiet: p50 us', 'p99 us', 'loud: MB/s', 'busy', 'in the last run, by worker'];
  return layOut([head, ...PLACEMENTS.map(line)], 1).join('\n');
}
