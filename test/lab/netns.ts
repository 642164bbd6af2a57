// The lab's network: two namespaces joined by a virtual Ethernet cable, nothing else.
//
//   or-PID-N-iohv                                     or-PID-N-host
//   seg0 02:00:00:00:0a:01  ────── veth, MTU ──────  seg0 02:00:00:00:0a:02
//
// The names hold our process id: labs do not disturb each other, and what a killed run left behind is found
// and removed by the next one. Nothing outside of these namespaces is touched.
import { existsSync, readdirSync } from 'node:fs';
import type { Cleanup } from './cleanup.js';
import { type Argv, runSync } from './command.js';
import { LabError } from './errors.js';

export const SEGMENT_INTERFACE = 'seg0';
export type Side = 'iohv' | 'host';

const MACS: Record<Side, string> = { iohv: '02:00:00:00:0a:01', host: '02:00:00:00:0a:02' };
const NAMESPACES = '/run/netns';
let made = 0;

export class Segment {
  readonly mtu: number;
  readonly #prefix: string;

  private constructor(mtu: number, prefix: string) {
    this.mtu = mtu;
    this.#prefix = prefix;
  }

  static open(mtu: number, cleanup: Cleanup): Segment {
    if (process.getuid?.() !== 0) {
      throw new LabError('network namespaces need root: start this with sudo');
    }
    sweepLeftovers();
    const segment = new Segment(mtu, `or-${process.pid}-${++made}`);
    const [iohv, host] = [segment.namespace('iohv'), segment.namespace('host')];
    cleanup.add(() => {
      removeNamespace(host);
      removeNamespace(iohv);
    });
    for (const namespace of [iohv, host]) {
      runSync(['ip', 'netns', 'add', namespace]);
      // Nothing but our frames shall be on the cable.
      runSync(['ip', 'netns', 'exec', namespace, 'sysctl', '-qw', 'net.ipv6.conf.default.disable_ipv6=1']);
    }
    const end = (side: Side): string[] => ['address', MACS[side], 'mtu', `${mtu}`, 'netns', segment.namespace(side)];
    const name = SEGMENT_INTERFACE;
    runSync(['ip', 'link', 'add', name, ...end('iohv'), 'type', 'veth', 'peer', 'name', name, ...end('host')]);
    for (const namespace of [iohv, host]) {
      runSync(['ip', '-n', namespace, 'link', 'set', 'lo', 'up']);
      runSync(['ip', '-n', namespace, 'link', 'set', name, 'up']);
    }
    return segment;
  }

  namespace(side: Side): string {
    return `${this.#prefix}-${side}`;
  }

  mac(side: Side): string {
    return MACS[side];
  }

  /** The command, run on that side. */
  wrap(side: Side, argv: Argv): Argv {
    return ['ip', 'netns', 'exec', this.namespace(side), ...argv];
  }

  /** Pulls or plugs the cable. */
  setLink(state: 'up' | 'down'): void {
    runSync(['ip', '-n', this.namespace('iohv'), 'link', 'set', SEGMENT_INTERFACE, state]);
  }
}

/** Whatever still runs in the namespace is killed with it: only processes that were started there. */
function removeNamespace(namespace: string): void {
  if (!existsSync(`${NAMESPACES}/${namespace}`)) {
    return;
  }
  for (const pid of runSync(['ip', 'netns', 'pids', namespace]).split('\n').filter(Boolean)) {
    try {
      process.kill(Number(pid), 'SIGKILL');
    } catch {
      // it has just ended by itself
    }
  }
  runSync(['ip', 'netns', 'delete', namespace]);
}

function sweepLeftovers(): void {
  const names = existsSync(NAMESPACES) ? readdirSync(NAMESPACES) : [];
  for (const name of names) {
    const pid = /^or-(\d+)-\d+-(?:iohv|host)$/.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) {
      removeNamespace(name);
    }
  }
}
