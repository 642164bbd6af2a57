// The lab's network: two namespaces joined by a virtual Ethernet cable, nothing else.
//
//   or-PID-N-iohv                                     or-PID-N-host
//   seg0 02:00:00:00:0a:01  ────── veth, MTU ──────  seg0 02:00:00:00:0a:02
//
// A relayed segment has a third one in the middle, where a program passes frames on (impairment.ts):
//
//   iohv: seg0 ── veth ── a0 :relay: b0 ── veth ── seg0 :host
//
// The names hold our process id: labs do not disturb each other, and what a killed run left behind is found
// and removed by the next one. Nothing outside of these namespaces is touched.
import { existsSync, readdirSync } from 'node:fs';
import type { Cleanup } from './cleanup.js';
import { type Argv, runSync } from './command.js';
import { LabError } from './errors.js';

export const SEGMENT_INTERFACE = 'seg0';
export type Side = 'iohv' | 'host';
type Place = Side | 'relay';

/** The relay's end of each side's cable. */
export const RELAY_INTERFACES: Record<Side, string> = { iohv: 'a0', host: 'b0' };

/** Of a second cable between the two sides. */
export const SECOND_INTERFACE = 'seg1';
export type Cable = typeof SEGMENT_INTERFACE | typeof SECOND_INTERFACE;

const SECOND_MACS: Record<Side, string> = { iohv: '02:00:00:00:0b:01', host: '02:00:00:00:0b:02' };
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

  static open(mtu: number, cleanup: Cleanup, relayed = false): Segment {
    if (process.getuid?.() !== 0) {
      throw new LabError('network namespaces need root: start this with sudo');
    }
    sweepLeftovers();
    const segment = new Segment(mtu, `or-${process.pid}-${++made}`);
    const places: Place[] = relayed ? ['host', 'relay', 'iohv'] : ['host', 'iohv'];
    const namespaces = places.map((place) => segment.namespace(place));
    cleanup.add(() => namespaces.forEach(removeNamespace));
    for (const namespace of namespaces) {
      runSync(['ip', 'netns', 'add', namespace]);
      // Nothing but our frames shall be on the cable.
      runSync(['ip', 'netns', 'exec', namespace, 'sysctl', '-qw', 'net.ipv6.conf.default.disable_ipv6=1']);
    }
    const end = (place: Place, name: string, ...more: string[]): string[] => {
      return ['name', name, ...more, 'mtu', `${mtu}`, 'netns', segment.namespace(place)];
    };
    const seg0 = (side: Side): string[] => end(side, SEGMENT_INTERFACE, 'address', MACS[side]);
    const relayEnd = (side: Side): string[] => end('relay', RELAY_INTERFACES[side]);
    const cables = relayed
      ? [
          [seg0('iohv'), relayEnd('iohv')],
          [relayEnd('host'), seg0('host')],
        ]
      : [[seg0('iohv'), seg0('host')]];
    for (const [one = [], other = []] of cables) {
      runSync(['ip', 'link', 'add', ...one, 'type', 'veth', 'peer', ...other]);
    }
    for (const namespace of namespaces) {
      runSync(['ip', '-n', namespace, 'link', 'set', 'group', 'default', 'up']);
    }
    return segment;
  }

  namespace(place: Place): string {
    return `${this.#prefix}-${place}`;
  }

  mac(side: Side): string {
    return MACS[side];
  }

  /** The command, run in that place. */
  wrap(place: Place, argv: Argv): Argv {
    return ['ip', 'netns', 'exec', this.namespace(place), ...argv];
  }

  /** Pulls or plugs a cable. */
  setLink(state: 'up' | 'down', cable: Cable = SEGMENT_INTERFACE): void {
    runSync(['ip', '-n', this.namespace('iohv'), 'link', 'set', cable, state]);
  }

  setMtu(side: Side, mtu: number, cable: Cable): void {
    runSync(['ip', '-n', this.namespace(side), 'link', 'set', cable, 'mtu', `${mtu}`]);
  }

  /** A second cable with interfaces of its own; again after removeSecond, as another one of the same names. */
  addSecond(): void {
    const end = (side: Side): string[] => [
      ...['name', SECOND_INTERFACE, 'address', SECOND_MACS[side]],
      ...['mtu', `${this.mtu}`, 'netns', this.namespace(side)],
    ];
    runSync(['ip', 'link', 'add', ...end('iohv'), 'type', 'veth', 'peer', ...end('host')]);
    for (const side of ['iohv', 'host'] as const) {
      runSync(['ip', '-n', this.namespace(side), 'link', 'set', SECOND_INTERFACE, 'up']);
    }
  }

  /** Deletes the interfaces of the second cable. */
  removeSecond(): void {
    runSync(['ip', '-n', this.namespace('host'), 'link', 'delete', SECOND_INTERFACE]);
  }

  secondMac(side: Side): string {
    return SECOND_MACS[side];
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
    const pid = /^or-(\d+)-\d+-(?:iohv|host|relay)$/.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) {
      removeNamespace(name);
    }
  }
}
