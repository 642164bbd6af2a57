// Question: what does a guest that means harm cost another one on the same host agent and the same I/O hypervisor?
// A disk is read in small pieces while the NIC of the guest beside it floods frames, or throws garbage into its
// rings; the same attacker on other machines, which share nothing with the disk but the CPUs, is the yardstick.
import { appendFileSync, writeFileSync } from 'node:fs';
import type { VmView } from '../src/api/schemas.js';
import { getText } from '../test/lab/api.js';
import { Cleanup } from '../test/lab/cleanup.js';
import { HOST_NAME, Outrigger } from '../test/lab/outrigger.js';
import { BRIDGE, Outside } from '../test/lab/outside.js';
import { repoRoot } from '../test/lab/paths.js';
import { LabProcess } from '../test/lab/process.js';
import { BenchError } from './lib/errors.js';
import { median } from './lib/median.js';
import { CPUS } from './lib/network.js';
import { Progress } from './lib/progress.js';
import { layOut } from './lib/table.js';
import { addDisk, readQuiet } from './lib/vm-disks.js';

const MTU = 9000;
const ATTACKS = ['frames', 'garbage'] as const;
const PLACES = ['here', 'elsewhere'] as const;
/** The attack begins before the measurement and outlasts it. */
const LEAD_S = 1;
const COUNTERS = /^(outrigger_(?:engine|nic)_\S*(?:drop|broken|throttle|malformed|rejected)\S*) (\d+)/gm;

export interface NeighbourOptions {
  seconds: number;
  repeat: number;
  json: string | undefined;
}

type Attack = (typeof ATTACKS)[number] | 'none';
type Place = (typeof PLACES)[number] | '-';

export interface NeighbourRow {
  attack: Attack;
  place: Place;
  p50_us: number;
  p99_us: number;
  iops: number;
  /** Of the attacker, thousands per second. */
  sent_k_per_s: number;
}

interface Machines {
  lab: Outrigger;
  /** Where the attacker's NIC is. */
  socket: string;
  mac: string;
}

async function openMachines(cleanup: Cleanup): Promise<Machines> {
  const lab = await Outrigger.open({ mtu: MTU, cleanup });
  Outside.open({ segment: lab.segment, dir: lab.dir, cleanup, bridged: true });
  for (const side of ['host', 'iohv'] as const) {
    appendFileSync(lab.configFile(side), `worker:\n  cpu: ${CPUS[side]}\n`);
  }
  await lab.startBoth();
  await lab.cli('iohv', 'nic', 'create', 'nic1', '--bridge', BRIDGE);
  await lab.cli('iohv', 'attach', 'loud', '--host', HOST_NAME, '--nic', 'nic1');
  await lab.vmArgs('loud');
  const { nics } = JSON.parse(await lab.cli('iohv', 'vm', 'show', 'loud', '--json')) as VmView;
  return { lab, socket: nics[0]?.socket ?? '', mac: nics[0]?.mac ?? '' };
}

/** Counters of both sides that tell of what was refused. */
async function refusals({ lab }: Machines): Promise<Map<string, number>> {
  const found = new Map<string, number>();
  for (const side of ['host', 'iohv'] as const) {
    for (const [, name, value] of (await getText(lab.socket(side), '/metrics')).matchAll(COUNTERS)) {
      found.set(`${side}: ${name}`, Number(value));
    }
  }
  return found;
}

async function measure(
  quiet: { lab: Outrigger; socket: string },
  attacker: Machines | undefined,
  attack: Attack,
  { seconds }: NeighbourOptions,
  cleanup: Cleanup,
): Promise<Omit<NeighbourRow, 'place'>> {
  const lasting = seconds + 2 * LEAD_S;
  const flood =
    attacker &&
    new LabProcess({
      name: 'nicflood',
      argv: attacker.lab.segment.wrap('host', [
        ...([`${repoRoot}/build-rel/tools/nicflood`, attack, attacker.socket, attacker.mac, `${lasting}`] as const),
      ]),
      logFile: `${attacker.lab.dir}/nicflood.log`,
      cleanup,
    });
  if (flood !== undefined) {
    await new Promise((resolve) => setTimeout(resolve, LEAD_S * 1000));
  }
  const { p50_us, p99_us, iops } = await readQuiet(quiet.lab, [quiet.socket], seconds);
  let sent = 0;
  if (flood !== undefined) {
    if ((await flood.ended) !== 0) {
      throw new BenchError(`nicflood failed: ${flood.tail()}`);
    }
    const { frames, garbage } = JSON.parse(flood.tail()) as { frames: number; garbage: number };
    sent = (frames + garbage) / lasting / 1000;
  }
  return { attack, p50_us, p99_us, iops, sent_k_per_s: sent };
}

export async function benchNeighbour(options: NeighbourOptions): Promise<void> {
  const cleanup = new Cleanup();
  cleanup.onSignals();
  const rows: NeighbourRow[] = [];
  const refused: string[] = [];
  try {
    const [here, elsewhere] = [await openMachines(cleanup), await openMachines(cleanup)];
    const quiet = { lab: here.lab, socket: await addDisk(here.lab, 'host', 'quiet') };
    const progress = new Progress(options.repeat * (1 + ATTACKS.length * PLACES.length));
    for (let round = 0; round < options.repeat; round++) {
      progress.step('no attack');
      rows.push({ place: '-', ...(await measure(quiet, undefined, 'none', options, cleanup)) });
      for (const attack of ATTACKS) {
        for (const place of PLACES) {
          progress.step(`${attack}, ${place}`);
          const attacker = place === 'here' ? here : elsewhere;
          const before = await refusals(attacker);
          rows.push({ place, ...(await measure(quiet, attacker, attack, options, cleanup)) });
          for (const [name, value] of await refusals(attacker)) {
            if (round === 0 && value > (before.get(name) ?? 0)) {
              refused.push(`${attack}, ${place}: ${name} +${value - (before.get(name) ?? 0)}`);
            }
          }
        }
      }
    }
    progress.clear();
  } finally {
    cleanup.run();
  }
  process.stdout.write(`${formatRows(rows)}\nCounted in the first round:\n${refused.join('\n')}\n`);
  if (options.json !== undefined) {
    writeFileSync(options.json, `${JSON.stringify(rows, null, 2)}\n`);
  }
}

function formatRows(rows: readonly NeighbourRow[]): string {
  const of = (attack: Attack, place: Place, key: 'p50_us' | 'p99_us' | 'iops' | 'sent_k_per_s') =>
    median(rows.filter((row) => row.attack === attack && row.place === place).map((row) => row[key]));
  const line = (attack: Attack, place: Place) => {
    const ratio = (key: 'p50_us' | 'p99_us') =>
      place === 'here' ? `${(of(attack, place, key) / of(attack, 'elsewhere', key)).toFixed(2)}x` : '';
    return [
      ...[attack, place, of(attack, place, 'sent_k_per_s').toFixed(0)],
      ...[of(attack, place, 'p50_us').toFixed(1), ratio('p50_us'), of(attack, place, 'p99_us').toFixed(1)],
      ...[ratio('p99_us'), of(attack, place, 'iops').toFixed(0)],
    ];
  };
  const heading = ['attack', 'where', 'k/s', 'p50 us', 'of elsewhere', 'p99 us', 'of elsewhere', 'IOPS'];
  const lines = ATTACKS.flatMap((attack) => PLACES.map((place) => line(attack, place)));
  return layOut([heading, line('none', '-'), ...lines], 2).join('\n');
}
