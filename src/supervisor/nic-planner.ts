// The planner of the I/O hypervisor's NICs, a pure function like planIohv, which calls it. A NIC has at most one
// step at a time, the first that leads on:
//
//    nic.setup ──> nic.open ──> nic.set ...      while it is attached to a known host
//    nic.close ──> nic.erase                     when it is detached, then removed
//
// A NIC is open once at most: a tap has one owner, and what leaves it must not be of two generations. What cannot
// be changed while it is open is changed by closing and opening it again, which the guest does not see but for
// frames that are lost meanwhile.
import type { DeviceEntry } from './documents.js';
import { sameLimit } from './limits.js';
import type { Desired, Nic, NicAttachment } from './model.js';
import type { NicArgs, NicPort, NicState, RxFilter } from './protocol.js';

export type NicStep = { key: string } & (
  | { do: 'nic.setup'; nic: Nic }
  | { do: 'nic.open'; nic: Nic; port: NicPort }
  | { do: 'nic.set'; id: number; change: Partial<NicState> }
  | { do: 'nic.close'; id: number }
  | { do: 'nic.erase'; nic: Nic }
);

/** What the host says about the guest of an attached NIC. */
export interface GuestNic {
  features: string;
  filter: RxFilter | null;
}

export interface NicPlanInput {
  desired: Desired;
  hostIsCurrent(name: string): boolean;
  /** NICs whose interface is set up. */
  ready: ReadonlySet<string>;
  /** Those that the engine has open, by attachment. */
  open: ReadonlyMap<number, NicPort>;
  /** Host name -> the devices it was told of since we are connected. */
  documents: ReadonlyMap<string, DeviceEntry[]>;
  /** By attachment. */
  guests: ReadonlyMap<number, GuestNic>;
}

export const NO_FEATURES = '0x0';

export const nicKey = (name: string) => `nic:${name}`;

export function planNics(input: NicPlanInput): NicStep[] {
  const { desired, open } = input;
  const names = new Set([...desired.nics, ...open.values()].map(({ name }) => name));
  return [...names].flatMap((name) => nextStep(name, input) ?? []);
}

/** A NIC that shall be open for the guest behind an attachment, as it is when it has just been opened. */
export function portOf(nic: Nic, { id, generation, host }: NicAttachment): NicPort {
  const { name, kind, interface: device, hub, mac, mtu, addresses, spoofCheck, rate } = nic;
  const fixed = { id, generation, host, name, kind, interface: device, hub, mac, mtu, addresses, spoofCheck };
  return { ...fixed, limit: rate.rx, linkUp: true, features: NO_FEATURES, filter: null };
}

export function argsOf(port: NicPort): NicArgs {
  const { host: _h, linkUp: _l, features: _f, filter: _r, ...args } = port;
  return args;
}

function nextStep(name: string, input: NicPlanInput): NicStep | undefined {
  const { desired, open, ready, hostIsCurrent } = input;
  const key = nicKey(name);
  const nic = desired.nics.find((other) => other.name === name);
  const attachment = desired.nicAttachments.find((other) => other.nic === name && hostIsCurrent(other.host));
  const wanted = nic?.phase === 'ready' && attachment !== undefined ? portOf(nic, attachment) : undefined;

  const present = [...open.values()].find((port) => port.name === name);
  if (present !== undefined && !(wanted && sameArgs(wanted, present) && hostIsCurrent(present.host))) {
    return mayBeInUse(present, input) ? undefined : { key, do: 'nic.close', id: present.id };
  }
  if (nic === undefined) {
    return undefined;
  }
  if (nic.phase === 'deleting') {
    return { key, do: 'nic.erase', nic };
  }
  if (!ready.has(name)) {
    return { key, do: 'nic.setup', nic };
  }
  if (wanted === undefined) {
    return undefined;
  }
  if (present === undefined) {
    return { key, do: 'nic.open', nic, port: wanted };
  }
  const guest = input.guests.get(present.id) ?? { features: NO_FEATURES, filter: null };
  const change = changeOf(present, { limit: nic.rate.rx, linkUp: nic.linkUp, ...guest });
  return change && { key, do: 'nic.set', id: present.id, change };
}

/** It was detached, and its host has not heard so. */
function mayBeInUse({ id, host }: NicPort, { desired, documents, hostIsCurrent }: NicPlanInput): boolean {
  const told = documents.get(host);
  const isTold = told === undefined || told.some((device) => device.id === id);
  return hostIsCurrent(host) && isTold && !desired.nicAttachments.some((attachment) => attachment.id === id);
}

/** But for what nic.set can change. */
function sameArgs(wanted: NicPort, present: NicPort): boolean {
  const fixed = (port: NicPort) => {
    const { id, generation, host, kind, interface: device, hub, mac, mtu, addresses, spoofCheck } = port;
    return JSON.stringify([id, generation, host, kind, device, hub, mac, mtu, addresses, spoofCheck]);
  };
  return fixed(wanted) === fixed(present);
}

function changeOf(present: NicState, wanted: NicState): Partial<NicState> | undefined {
  const change: Partial<NicState> = {
    ...(sameLimit(present.limit, wanted.limit) ? {} : { limit: wanted.limit }),
    ...(present.linkUp === wanted.linkUp ? {} : { linkUp: wanted.linkUp }),
    ...(present.features === wanted.features ? {} : { features: wanted.features }),
    ...(JSON.stringify(present.filter) === JSON.stringify(wanted.filter) ? {} : { filter: wanted.filter }),
  };
  return Object.keys(change).length === 0 ? undefined : change;
}
