// Disks of VMs at a whole Outrigger, driven by loadgen in the place of QEMU and the guest: quiet ones, which are read
// in small pieces, and loud ones.
import type { VmView } from '../../src/api/schemas.js';
import type { Cleanup } from '../../test/lab/cleanup.js';
import { type Argv, run } from '../../test/lab/command.js';
import { HOST_NAMES, type Outrigger } from '../../test/lab/outrigger.js';
import { LabProcess } from '../../test/lab/process.js';
import { BenchError } from './errors.js';
import { FILL, loadgenProgram, parseResult, type Result, runLoadgen } from './loadgen.js';
import { atNice } from './network.js';

type Host = keyof typeof HOST_NAMES;

/** What a loud disk does: arguments of loadgen. */
export const LOUD = {
  '4 KiB, depth 128': ['--bs', '4k', '--qd', '128'],
  '1 MiB, depth 32': ['--bs', '1m', '--qd', '32'],
} as const;
const RAM = ['--kind', 'ram', '--size', '64M'];
const TIMEOUT_MS = 600_000;

/** The socket of the only disk of a new VM. `volume`: arguments of `outrigger volume create`. */
export async function addDisk(lab: Outrigger, host: Host, vm: string, volume: string[] = RAM): Promise<string> {
  await lab.cli('iohv', 'volume', 'create', vm, ...volume);
  await lab.cli('iohv', 'attach', vm, '--host', HOST_NAMES[host], '--disk', vm);
  await lab.vmArgs(vm); // waits until the host has it
  const { disks } = JSON.parse(await lab.cli(host, 'vm', 'show', vm, '--json')) as VmView;
  return disks[0]?.socket ?? '';
}

/** As guests do, loadgen sleeps while it waits. */
const at = (sockets: readonly string[]) => ['--engine', 'vhost-user', '--socket', sockets.join(), '--spin-us', '0'];

const drive = (sockets: readonly string[], seconds: number, what: readonly string[]): Argv => [
  loadgenProgram(),
  ...at(sockets),
  ...['--seconds', `${seconds}`, '--json', ...what],
];

/** Writes all of it once. */
export async function fillDisk({ segment }: Outrigger, socket: string): Promise<void> {
  await runLoadgen([...at([socket]), ...FILL], (argv) => segment.wrap('host', argv));
}

/** `what`: arguments of loadgen. */
export async function driveDisks(
  { segment }: Outrigger,
  sockets: readonly string[],
  seconds: number,
  what: readonly string[],
): Promise<Result> {
  // The engines have this priority too: what is measured is their service, not the wait for a CPU.
  const argv = ['setsid', ...segment.wrap('host', atNice(drive(sockets, seconds, what)))] as const;
  const { status, stdout, stderr } = await run(argv, TIMEOUT_MS);
  if (status !== 0) {
    throw new BenchError(stderr.trim() || stdout.trim());
  }
  return parseResult(stdout);
}

export const readQuiet = (lab: Outrigger, sockets: readonly string[], seconds: number): Promise<Result> =>
  driveDisks(lab, sockets, seconds, ['--op', 'randread', '--bs', '4k', '--qd', '1']);

export interface LoudOptions {
  lab: Outrigger;
  host: Host;
  socket: string;
  what: keyof typeof LOUD;
  seconds: number;
  cleanup: Cleanup;
}

/** Begins to read; the result is there when it has ended. */
export function beLoud({ lab, host, socket, what, seconds, cleanup }: LoudOptions): () => Promise<Result> {
  const argv = lab.segment.wrap(host, drive([socket], seconds, ['--op', 'randread', ...LOUD[what]]));
  const loud = new LabProcess({ name: 'loud', argv, logFile: `${lab.dir}/loud.log`, cleanup });
  return async () => {
    if ((await loud.ended) !== 0) {
      throw new BenchError(`loadgen failed: ${loud.tail()}`);
    }
    return parseResult(loud.tail());
  };
}
