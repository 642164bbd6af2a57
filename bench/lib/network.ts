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

/** The command with that priority: its own, and that of its session, which counts where the kernel groups processes by
 * session (autogroup). So it needs a session of its own: begin with `setsid`, unless it is a LabProcess. */
export function atNice(argv: Argv, nice = NICE): Argv {
  return ['sh', '-c', 'echo "$0" 2>/dev/null >/proc/self/autogroup; exec nice -n "$0" "$@"', String(nice), ...argv];
}

/** The same, on that side's CPU. Each program replaces itself with the next. */
export function onCpu(side: Side, argv: Argv, nice = NICE): Argv {
  return atNice(['taskset', '-c', String(CPUS[side]), ...argv], nice);
}

/** The same, in that side's namespace. */
export function onSide(segment: Segment, side: Side, argv: Argv, nice = NICE): Argv {
  return segment.wrap(side, onCpu(side, argv, nice));
}
