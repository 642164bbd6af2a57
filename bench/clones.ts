// Question: what does a guest pay when it writes to a clone where nobody has written yet, beside a volume that is its
// own file and a clone that has all its clusters already?
import { appendFileSync, writeFileSync } from 'node:fs';
import { Cleanup } from '../test/lab/cleanup.js';
import { Outrigger } from '../test/lab/outrigger.js';
import type { Result } from './lib/loadgen.js';
import { median } from './lib/median.js';
import { CPUS } from './lib/network.js';
import { Progress } from './lib/progress.js';
import { layOut } from './lib/table.js';
import { addDisk, driveDisks, fillDisk } from './lib/vm-disks.js';

const MTU = 9000;
const BASE = 'base';
/** So much that in a row few of the random writes meet a cluster twice. */
const SIZE = '1G';
const MODES = ['none', 'write-through', 'write-back'] as const;
const STORAGES = ['file', 'first', 'again'] as const;
const DEPTHS = [1, 32] as const;

const ABOUT = {
  file: 'a file of its own',
  first: 'a clone, first write',
  again: 'a clone that has it',
} as const;

export interface ClonesOptions {
  seconds: number;
  repeat: number;
  json: string | undefined;
}

/** Random writes of 4 KiB, a cluster each. */
export interface ClonesRow {
  mode: (typeof MODES)[number];
  depth: (typeof DEPTHS)[number];
  storage: (typeof STORAGES)[number];
  iops: number;
  p50_us: number;
  p99_us: number;
}

const write = (lab: Outrigger, socket: string, seconds: number, depth: number): Promise<Result> =>
  driveDisks(lab, [socket], seconds, ['--op', 'randwrite', '--bs', '4k', '--qd', `${depth}`]);

async function addFilled(lab: Outrigger, vm: string, volume: string[]): Promise<string> {
  const socket = await addDisk(lab, 'host', vm, volume);
  await fillDisk(lab, socket);
  return socket;
}

/** On a clone that is made for it and goes afterwards. */
async function writeFirst(lab: Outrigger, name: string, clone: string[], seconds: number, depth: number) {
  const socket = await addDisk(lab, 'host', name, clone);
  const result = await write(lab, socket, seconds, depth);
  await lab.cli('iohv', 'detach', name);
  await lab.cli('iohv', 'volume', 'rm', name);
  return result;
}

async function measure(lab: Outrigger, { seconds, repeat }: ClonesOptions): Promise<ClonesRow[]> {
  const rows: ClonesRow[] = [];
  const progress = new Progress(MODES.length * repeat * DEPTHS.length * STORAGES.length);
  await lab.cli('iohv', 'volume', 'create', BASE, '--size', SIZE);
  for (const mode of MODES) {
    const clone = ['--from', BASE, '--cache', mode];
    const filled = {
      file: await addFilled(lab, `file-${mode}`, ['--size', SIZE, '--cache', mode]),
      again: await addFilled(lab, `again-${mode}`, clone),
    };
    for (let round = 0; round < repeat; round++) {
      for (const depth of DEPTHS) {
        for (const storage of STORAGES) {
          progress.step(`${mode}, depth ${depth}: ${ABOUT[storage]}`);
          const { iops, p50_us, p99_us } = await (storage === 'first'
            ? writeFirst(lab, `first-${rows.length}`, clone, seconds, depth)
            : write(lab, filled[storage], seconds, depth));
          rows.push({ mode, depth, storage, iops, p50_us, p99_us });
        }
      }
    }
  }
  progress.clear();
  return rows;
}

export async function benchClones(options: ClonesOptions & { command: string }): Promise<void> {
  const cleanup = new Cleanup();
  cleanup.onSignals();
  try {
    const lab = await Outrigger.open({ mtu: MTU, cleanup, cpu: CPUS.iohv });
    appendFileSync(lab.configFile('host'), `worker:\n  cpu: ${CPUS.host}\n`);
    await lab.startBoth();
    const rows = await measure(lab, options);
    process.stdout.write(`${format(rows)}\n`);
    if (options.json !== undefined) {
      writeFileSync(options.json, `${JSON.stringify({ command: options.command, rows }, null, 2)}\n`);
    }
  } finally {
    cleanup.run();
  }
}

/** Medians of the rounds. */
function format(rows: readonly ClonesRow[]): string {
  const cells = MODES.flatMap((mode) =>
    DEPTHS.flatMap((depth) =>
      STORAGES.map((storage) => {
        const of = (which: ClonesRow['storage'], key: 'iops' | 'p50_us' | 'p99_us') =>
          median(rows.filter((r) => r.mode === mode && r.depth === depth && r.storage === which).map((r) => r[key]));
        const iops = of(storage, 'iops');
        return [
          ...[mode, `${depth}`, ABOUT[storage], iops.toFixed(0), `${(iops / of('file', 'iops')).toFixed(2)}x`],
          ...[of(storage, 'p50_us').toFixed(0), of(storage, 'p99_us').toFixed(0)],
        ];
      }),
    ),
  );
  return layOut([['cache', 'depth', 'write to', 'IOPS', 'of a file', 'p50 us', 'p99 us'], ...cells]).join('\n');
}
