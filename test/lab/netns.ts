// The lab's network: two namespaces joined by a virtual Ethernet cable, nothing else.
//
//   or-PID-N-iohv                                     or-PID-N-host
//   seg0 02:00:00:00:0a:01  ────── veth, MTU ──────  seg0 02:00:00:00:0a:02
//
// A relayed segment has a third one in the middle, where a program passes frames on (impairment.ts):
//
//   iohv: seg0 ── veth ── a0 :relay: b0 ── veth ── seg0 :host
//
// With a second host there is a switch in the middle, a Linux bridge in a namespace of its own:
//
//   iohv: seg0 ── veth ── iohv :switch: host ── veth ── seg0 :host
//                               host2 ── veth ── seg0 :host2
//
// The names hold our process id: labs do not disturb each other, and what a killed run left behind is found
// and removed by the next one. Nothing outside of these namespaces is touched.
import { existsSync, readdirSync } from 'node:fs';
import type { Cleanup } from './cleanup.js';
import { type Argv, runSync } from './command.js';
import { LabError } from './errors.js';

export const SEGMENT_INTERFACE = 'seg0';
export type Side = 'iohv' | 'host';
/** What runs a supervisor. */
export type Machine = Side | 'host2';
export type Place = Machine | 'relay' | 'switch' | 'outside' | 'guest';

export interface SegmentOptions {
  /** Something else passes the frames on: see RELAY_INTERFACES. */
  relayed?: boolean;
  secondHost?: boolean;
}

/** The relay's end of each side's cable. */
export const RELAY_INTERFACES: Record<Side, string> = { iohv: 'a0', host: 'b0' };

/** Of a second cable between the two sides. */
export const SECOND_INTERFACE = 'seg1';
export type Cable = typeof SEGMENT_INTERFACE | typeof SECOND_INTERFACE;

const SECOND_MACS: Record<Side, string> = { iohv: '02:00:00:00:0b:01', host: '02:00:00:00:0b:02' };
const MACS: Record<Machine, string> = {
  iohv: '02:00:00:00:0a:01',
  host: '02:00:00:00:0a:02',
  host2: '02:00:00:00:0a:03',
};
const SWITCH = 'switch0';
const NAMESPACES = '/run/netns';
let made = 0;

/** Of a cable. */
export interface End {
  place: Place;
  name: string;
  mac?: string;
}

export class Segment {
  readonly mtu: number;
  readonly #prefix: string;

  private constructor(mtu: number, prefix: string) {
    this.mtu = mtu;
    this.#prefix = prefix;
  }

  static open(mtu: number, cleanup: Cleanup, { relayed, secondHost }: SegmentOptions = {}): Segment {
    if (process.getuid?.() !== 0) {
      throw new LabError('network namespaces need root: start this with sudo');
    }
    sweepLeftovers();
    const segment = new Segment(mtu, `or-${process.pid}-${++made}`);
    const machines: Machine[] = secondHost ? ['host', 'host2', 'iohv'] : ['host', 'iohv'];
    const between: Place[] = relayed ? ['relay'] : secondHost ? ['switch'] : [];
    for (const place of [...machines, ...between]) {
      segment.addNamespace(place, cleanup);
    }
    if (relayed) {
      segment.#relay();
    } else if (secondHost) {
      segment.#switch(machines);
    } else {
      segment.addCable(segment.#machineEnd('iohv'), segment.#machineEnd('host'));
    }
    return segment;
  }

  /** Where nothing but what we put there sends frames. */
  addNamespace(place: Place, cleanup: Cleanup): void {
    const namespace = this.namespace(place);
    cleanup.add(() => removeNamespace(namespace));
    runSync(['ip', 'netns', 'add', namespace]);
    runSync(['ip', 'netns', 'exec', namespace, 'sysctl', '-qw', 'net.ipv6.conf.default.disable_ipv6=1']);
    runSync(['ip', '-n', namespace, 'link', 'set', 'lo', 'up']);
  }

  #machineEnd(machine: Machine): End {
    return { place: machine, name: SEGMENT_INTERFACE, mac: MACS[machine] };
  }

  #relay(): void {
    for (const side of ['iohv', 'host'] as const) {
      this.addCable(this.#machineEnd(side), { place: 'relay', name: RELAY_INTERFACES[side] });
    }
  }

  #switch(machines: readonly Machine[]): void {
    const namespace = this.namespace('switch');
    runSync(['ip', '-n', namespace, 'link', 'add', SWITCH, 'mtu', `${this.mtu}`, 'type', 'bridge']);
    runSync(['ip', '-n', namespace, 'link', 'set', SWITCH, 'up']);
    for (const machine of machines) {
      this.addCable(this.#machineEnd(machine), { place: 'switch', name: machine });
      runSync(['ip', '-n', namespace, 'link', 'set', machine, 'master', SWITCH]);
    }
  }

  /** A cable between two places, both ends up. */
  addCable(one: End, other: End): void {
    const words = ({ place, name, mac }: End): string[] => [
      ...['name', name, ...(mac === undefined ? [] : ['address', mac])],
      ...['mtu', `${this.mtu}`, 'netns', this.namespace(place)],
    ];
    runSync(['ip', 'link', 'add', ...words(one), 'type', 'veth', 'peer', ...words(other)]);
    for (const { place, name } of [one, other]) {
      runSync(['ip', '-n', this.namespace(place), 'link', 'set', name, 'up']);
    }
  }

  namespace(place: Place): string {
    return `${this.#prefix}-${place}`;
  }

  mac(machine: Machine): string {
    return MACS[machine];
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
    const end = (side: Side): End => ({ place: side, name: SECOND_INTERFACE, mac: SECOND_MACS[side] });
    this.addCable(end('iohv'), end('host'));
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

/** Another test that begins now may do the same. */
function removeLeftover(namespace: string): void {
  try {
    removeNamespace(namespace);
  } catch (error) {
    if (existsSync(`${NAMESPACES}/${namespace}`)) {
      throw error;
    }
  }
}

function sweepLeftovers(): void {
  const names = existsSync(NAMESPACES) ? readdirSync(NAMESPACES) : [];
  for (const name of names) {
    const pid = /^or-(\d+)-\d+-(?:iohv|host2?|relay|switch|outside|guest)$/.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) {
      removeLeftover(name);
    }
  }
}
