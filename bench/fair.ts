// Question: what does a VM with much to do cost a quiet one at the same I/O hypervisor, with the fair scheduler and in
// order of arrival? A disk is read in small pieces while another disk is read as fast as it goes: on the same host, or on
// another one; the same load on machines that share nothing but the CPUs is the yardstick.
import { appendFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Cleanup } from '../test/lab/cleanup.js';
import { Outrigger } from '../test/lab/outrigger.js';
import { median } from './lib/median.js';
import { CPUS } from './lib/network.js';
import { Progress } from './lib/progress.js';
import { layOut } from './lib/table.js';
import { addDisk, beLoud, LOUD, readQuiet } from './lib/vm-disks.js';

const MTU = 9000;
const SCHEDULINGS = ['fair', 'fifo'] as const;
const HOSTS = ['host', 'host2'] as const;
const PLACES = ['same host', 'other host', 'elsewhere'] as const;
/** The load begins before the measurement and outlasts it. */
const LEAD_S = 1;

export interface FairOptions {
  seconds: number;
  repeat: number;
  /** Quiet disks that are read at once; the loud one comes on top. */
  quiet: number;
  json: string | undefined;
}

type Scheduling = (typeof SCHEDULINGS)[number];
type Load = keyof typeof LOUD | 'none';
type Place = (typeof PLACES)[number] | '-';

export interface FairRow {
  scheduling: Scheduling;
  load: Load;
  place: Place;
  /** Of the quiet disks. */
  quiet: number;
  p50_us: number;
  p99_us: number;
  iops: number;
  /** Of the loud one. */
  loud_mbps: number;
}

interface Machines {
  lab: Outrigger;
  /** Sockets: of the quiet disks, and of the loud disk of each host. */
  quiet: string[];
  loud: Record<(typeof HOSTS)[number], string>;
}

async function openMachines(scheduling: Scheduling, quiet: number, cleanup: Cleanup): Promise<Machines> {
  const lab = await Outrigger.open({ mtu: MTU, cleanup, secondHost: true });
  appendFileSync(lab.configFile('iohv'), `scheduling: ${scheduling}\nworker:\n  cpu: ${CPUS.iohv}\n`);
  for (const host of HOSTS) {
    appendFileSync(lab.configFile(host), `worker:\n  cpu: ${CPUS.host}\n`);
  }
  await lab.startBoth();
  const sockets: string[] = [];
  for (let n = 0; n < quiet; n++) {
    sockets.push(await addDisk(lab, 'host', `quiet${n}`));
  }
  const loud = { host: await addDisk(lab, 'host', 'loud'), host2: await addDisk(lab, 'host2', 'loud2') };
  return { lab, quiet: sockets, loud };
}

async function measure(
  here: Machines,
  elsewhere: Machines,
  scheduling: Scheduling,
  [load, place]: readonly [Load, Place],
  { seconds }: FairOptions,
  cleanup: Cleanup,
): Promise<FairRow> {
  const machines = place === 'elsewhere' ? elsewhere : here;
  const host = place === 'other host' ? 'host2' : 'host';
  const [lasting, socket] = [seconds + 2 * LEAD_S, machines.loud[host]];
  const loud =
    load === 'none' ? undefined : beLoud({ lab: machines.lab, host, socket, what: load, seconds: lasting, cleanup });
  await sleep(loud === undefined ? 0 : LEAD_S * 1000);
  const { p50_us, p99_us, iops } = await readQuiet(here.lab, here.quiet, seconds);
  const loud_mbps = (await loud?.())?.mbps ?? 0;
  return { scheduling, load, place, quiet: here.quiet.length, p50_us, p99_us, iops, loud_mbps };
}

const CASES: readonly (readonly [Load, Place])[] = [
  ['none', '-'],
  ...(Object.keys(LOUD) as Load[]).flatMap((load) => PLACES.map((place) => [load, place] as const)),
];

export async function benchFair(options: FairOptions): Promise<void> {
  const rows: FairRow[] = [];
  const progress = new Progress(options.repeat * SCHEDULINGS.length * CASES.length);
  const cleanup = new Cleanup();
  cleanup.onSignals();
  try {
    const machines: Record<Scheduling, Machines> = {
      fair: await openMachines('fair', options.quiet, cleanup),
      fifo: await openMachines('fifo', options.quiet, cleanup),
    };
    for (let round = 0; round < options.repeat; round++) {
      for (const one of CASES) {
        for (const scheduling of SCHEDULINGS) {
          progress.step(`${scheduling}: ${one.join(', ')}`);
          const elsewhere = machines[scheduling === 'fair' ? 'fifo' : 'fair'];
          rows.push(await measure(machines[scheduling], elsewhere, scheduling, one, options, cleanup));
        }
      }
    }
    progress.clear();
  } finally {
    cleanup.run();
  }
  process.stdout.write(`${formatRows(rows)}\n`);
  if (options.json !== undefined) {
    writeFileSync(options.json, `${JSON.stringify(rows, null, 2)}\n`);
  }
}

function formatRows(rows: readonly FairRow[]): string {
  const line = ([load, place]: readonly [Load, Place]) => {
    const of = (scheduling: Scheduling, where: Place, key: 'p50_us' | 'p99_us' | 'iops' | 'loud_mbps') =>
      median(
        rows
          .filter((row) => row.scheduling === scheduling && row.load === load && row.place === where)
          .map((row) => row[key]),
      );
    const ratio = (place === 'same host' || place === 'other host') && {
      fair: `${(of('fair', place, 'p99_us') / of('fair', 'elsewhere', 'p99_us')).toFixed(2)}x`,
      fifo: `${(of('fifo', place, 'p99_us') / of('fifo', 'elsewhere', 'p99_us')).toFixed(2)}x`,
    };
    const figures = SCHEDULINGS.flatMap((scheduling) => [
      ...(['p50_us', 'p99_us'] as const).map((key) => of(scheduling, place, key).toFixed(1)),
      ratio ? ratio[scheduling] : '',
      of(scheduling, place, 'loud_mbps').toFixed(0),
    ]);
    return [load, place, ...figures];
  };
  const columns = SCHEDULINGS.flatMap((name) => [`${name}: p50 us`, 'p99 us', 'of elsewhere', 'loud MB/s']);
  return layOut([['load', 'where', ...columns], ...CASES.map(line)], 2).join('\n');
}
