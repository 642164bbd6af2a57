// What carries packets between the two ends of the network benchmark: namespaces `guest` and `outside`, each with
// a kernel's TCP of its own.
//
//   outrigger    guest: tap ── guestnic ── host agent ══ veth ══ I/O hypervisor: tap ── bridge ── veth :outside
//   outrigger-qemu      the same with a guest in QEMU
//   bridge       guest: veth ── bridge ── veth :outside
//   vde          guest: tap ── vde_plug2tap ── vde_switch ── vde_plug2tap ── tap :outside
import { existsSync } from 'node:fs';
import type { VmView } from '../../src/api/schemas.js';
import { findAccel } from '../../test/lab/accel.js';
import type { Cleanup } from '../../test/lab/cleanup.js';
import { type Argv, run, runSync } from '../../test/lab/command.js';
import { TestGuest } from '../../test/lab/guest.js';
import { makeLabDir } from '../../test/lab/lab-dir.js';
import { type Place, Segment } from '../../test/lab/netns.js';
import { HOST_NAME, Outrigger } from '../../test/lab/outrigger.js';
import { BRIDGE, OUTSIDE, OUTSIDE_INTERFACE, Outside } from '../../test/lab/outside.js';
import { repoRoot } from '../../test/lab/paths.js';
import { LabProcess } from '../../test/lab/process.js';
import { waitFor } from '../../test/lab/wait.js';
import { BenchError } from './errors.js';

const GUEST_INTERFACE = 'eth0';
const GUEST_ADDRESS = '10.77.0.2';
const WIRE_MTU = 9000;
const START_MS = 30_000;
export const VM = 'bench';

/** Both ends, reachable from each other. */
export interface Ends {
  /** Runs a program where the guest is, and returns what it prints. */
  near(argv: Argv): Promise<string>;
  /** A program in the namespace `outside`. */
  far(argv: Argv): Argv;
  /** loadgen runs in the namespace `guest`; not in a guest of QEMU. */
  hasLoadgen: boolean;
  dir: string;
}

export interface NetSystem {
  name: string;
  byDefault: boolean;
  open(mtu: number, cleanup: Cleanup): Promise<Ends>;
}

function endsOf(segment: Segment, dir: string): Ends {
  return {
    near: async (argv) => {
      const { status, stdout, stderr } = await run(segment.wrap('guest', argv), 600_000);
      if (status !== 0) {
        throw new BenchError(`${argv.join(' ')}: ${stderr.trim() || stdout.trim()}`);
      }
      return stdout;
    },
    far: (argv) => segment.wrap('outside', argv),
    hasLoadgen: true,
    dir,
  };
}

function configure(segment: Segment, place: Place, name: string, address: string, mtu: number): void {
  const ip = ['ip', '-n', segment.namespace(place)] as const;
  runSync([...ip, 'link', 'set', name, 'mtu', `${mtu}`, 'up']);
  runSync([...ip, 'address', 'replace', `${address}/24`, 'dev', name]);
}

/** `socket`: for whoever plays the guest. */
export interface NicLab {
  lab: Outrigger;
  socket: string;
}

/** An I/O hypervisor and a host agent with a NIC between them, of the VM `bench`. */
export async function openLab(mtu: number, cleanup: Cleanup): Promise<NicLab> {
  const lab = await Outrigger.open({ mtu: WIRE_MTU, cleanup });
  Outside.open({ segment: lab.segment, dir: lab.dir, cleanup, bridged: true });
  configure(lab.segment, 'outside', OUTSIDE_INTERFACE, OUTSIDE.ipv4, mtu);
  await lab.startBoth();
  await lab.cli('iohv', 'nic', 'create', 'nic1', '--bridge', BRIDGE, '--mtu', `${mtu}`);
  await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--nic', 'nic1');
  await lab.vmArgs(VM);
  const vm = JSON.parse(await lab.cli('host', 'vm', 'show', VM, '--json')) as VmView;
  const socket = vm.nics[0]?.socket;
  if (socket === undefined) {
    throw new BenchError('the host agent has no NIC');
  }
  return { lab, socket };
}

async function openOutrigger(mtu: number, cleanup: Cleanup): Promise<Ends> {
  return plugIn(await openLab(mtu, cleanup), mtu, cleanup);
}

/** guestnic on the NIC of the VM `bench`. */
export async function plugIn({ lab, socket }: NicLab, mtu: number, cleanup: Cleanup): Promise<Ends> {
  lab.segment.addNamespace('guest', cleanup);
  const guestnic = new LabProcess({
    name: 'guestnic',
    argv: lab.segment.wrap('guest', [`${repoRoot}/build-rel/tools/guestnic`, socket, GUEST_INTERFACE]),
    logFile: `${lab.dir}/guestnic.log`,
    cleanup,
  });
  await guestnic.waitForLine(/^ready$/, START_MS);
  const vm = JSON.parse(await lab.cli('iohv', 'vm', 'show', VM, '--json')) as VmView;
  const mac = vm.nics[0]?.mac ?? '';
  runSync(['ip', '-n', lab.segment.namespace('guest'), 'link', 'set', GUEST_INTERFACE, 'address', mac]);
  configure(lab.segment, 'guest', GUEST_INTERFACE, GUEST_ADDRESS, mtu);
  return endsOf(lab.segment, lab.dir);
}

async function openQemu(mtu: number, cleanup: Cleanup): Promise<Ends> {
  const { lab } = await openLab(mtu, cleanup);
  const { args } = await lab.vmArgs(VM, '--memory', '512M');
  const wrap = (argv: Argv) => lab.segment.wrap('host', argv);
  const guest = await TestGuest.boot({ dir: lab.dir, name: VM, accel: await findAccel(), args, wrap, cleanup });
  await guest.must(
    `ip link set ${GUEST_INTERFACE} mtu ${mtu} up && ip a add ${GUEST_ADDRESS}/24 dev ${GUEST_INTERFACE}`,
  );
  return {
    near: (argv) => guest.must(argv.join(' '), 600_000),
    far: (argv) => lab.segment.wrap('outside', argv),
    hasLoadgen: false,
    dir: lab.dir,
  };
}

async function openBridge(mtu: number, cleanup: Cleanup): Promise<Ends> {
  const dir = makeLabDir(cleanup);
  const segment = Segment.open(WIRE_MTU, cleanup);
  Outside.open({ segment, dir, cleanup, bridged: true });
  segment.addNamespace('guest', cleanup);
  segment.addCable({ place: 'iohv', name: 'port1' }, { place: 'guest', name: GUEST_INTERFACE });
  runSync(['ip', '-n', segment.namespace('iohv'), 'link', 'set', 'port1', 'master', BRIDGE]);
  configure(segment, 'outside', OUTSIDE_INTERFACE, OUTSIDE.ipv4, mtu);
  configure(segment, 'guest', GUEST_INTERFACE, GUEST_ADDRESS, mtu);
  return endsOf(segment, dir);
}

async function openVde(mtu: number, cleanup: Cleanup): Promise<Ends> {
  const dir = makeLabDir(cleanup);
  const segment = Segment.open(WIRE_MTU, cleanup);
  const socket = `${dir}/vde`;
  // They end with their standard input.
  const start = (name: string, argv: Argv) =>
    new LabProcess({ name, argv, logFile: `${dir}/${name}.log`, input: true, cleanup });
  start('vde_switch', ['vde_switch', '-s', socket, '-n', '8']);
  await waitFor({ what: 'vde_switch', timeoutMs: START_MS }, () => existsSync(`${socket}/ctl`));
  const plugs = [
    ['guest', GUEST_INTERFACE, GUEST_ADDRESS],
    ['outside', OUTSIDE_INTERFACE, OUTSIDE.ipv4],
  ] as const;
  for (const [place, name, address] of plugs) {
    segment.addNamespace(place, cleanup);
    start(`plug-${place}`, segment.wrap(place, ['vde_plug2tap', '-s', socket, name]));
    await waitFor({ what: `the tap in ${place}`, timeoutMs: START_MS }, async () =>
      runSync(['ip', '-n', segment.namespace(place), '-o', 'link']).includes(` ${name}:`),
    );
    configure(segment, place, name, address, mtu);
  }
  return endsOf(segment, dir);
}

export const NET_SYSTEMS: readonly NetSystem[] = [
  { name: 'outrigger', byDefault: true, open: openOutrigger },
  { name: 'bridge', byDefault: true, open: openBridge },
  { name: 'vde', byDefault: true, open: openVde },
  { name: 'outrigger-qemu', byDefault: false, open: openQemu },
];
