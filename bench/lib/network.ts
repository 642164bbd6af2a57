// The lab's segment with what the bench adds to it: IP addresses for the peers that speak TCP, and the CPUs
// that both sides run on. Pinned, with high priority: unpinned spinners land on one core and fight.
//
//   host side: loadgen, CPU 0, 10.97.0.1 ══ veth ══ I/O hypervisor's side: the server, CPU 1, 10.97.0.2
import { availableParallelism } from 'node:os';
import type { Cleanup } from '../../test/lab/cleanup.js';
import { type Argv, runSync } from '../../test/lab/command.js';
import { SEGMENT_INTERFACE, Segment, type Side } from '../../test/lab/netns.js';

const ADDRESSES: Record<Side, string> = { host: '10.97.0.1', iohv: '10.97.0.2' };

export const SERVER_ADDRESS = ADDRESSES.iohv;
export const CPUS: Record<Side, number> = { host: 0, iohv: Math.min(1, availableParallelism() - 1) };
export const NICE = -20;

export function openNetwork(mtu: number, cleanup: Cleanup): Segment {
  const segment = Segment.open(mtu, cleanup);
  for (const side of ['host', 'iohv'] as const) {
    const address = `${ADDRESSES[side]}/24`;
    runSync(['ip', '-n', segment.namespace(side), 'address', 'add', address, 'dev', SEGMENT_INTERFACE]);
  }
  return segment;
}

/** The command, in that side's namespace, on its CPU. Each program replaces itself with the next. */
export function onSide(segment: Segment, side: Side, argv: Argv, nice = NICE): Argv {
  return segment.wrap(side, ['nice', '-n', String(nice), 'taskset', '-c', String(CPUS[side]), ...argv]);
}
