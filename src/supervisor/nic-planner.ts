// The planner of the I/O hypervisor's NICs, a pure function like planIohv, which calls it. A NIC has at most one
// step at a time, the first that leads on:
//
//    nic.setup ──> nic.open ──> nic.set ...      while it is attached to a known host
//    nic.close ──> nic.erase                     when it is detached, then removed
//
// A NIC is open once at most: a tap has one owner, and what leaves it must not be of two generations. Of the copies of
// a VM in a domain, it is open for the one that is active.
import type { DeviceEntry } from './documents.js';
import type { Protection } from './domain-planner.js';
import { sameLimit } from './limits.js';
import type { Desired, Nic, NicAttachment, Placement } from './model.js';
import type { GuestNic, NicArgs, NicChange, NicDomain, NicPort } from './protocol.js';

export type NicStep = { key: string } & (
  | { do: 'nic.setup'; nic: Nic }
  | { do: 'nic.open'; nic: Nic; port: NicPort }
  | { do: 'nic.set'; id: number; change: NicChange }
  | { do: 'nic.close'; id: number }
  | { do: 'nic.erase'; nic: Nic }
);

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
  placement: Placement;
  protection: Protection;
}

export const NO_FEATURES = '0x0';
const NO_GUEST: GuestNic = { features: NO_FEATURES, filter: null };

export const nicKey = (name: string) => `nic:${name}`;

export function planNics(input: NicPlanInput): NicStep[] {
  const { desired, open } = input;
  const names = new Set([...desired.nics, ...open.values()].map(({ name }) => name));
  return [...names].flatMap((name) => nextStep(name, input) ?? []);
}

/** A NIC that shall be open for the guest behind an attachment, as it is when it has just been opened. */
export function portOf(
  nic: Nic,
  { id, generation, host }: NicAttachment,
  { nics }: Placement,
  domain: NicDomain | null = null,
): NicPort {
  const { name, kind, interface: device, hub, mac, mtu, addresses, spoofCheck, linkUp, rate } = nic;
  const fixed = { id, generation, host, name, kind, interface: device, hub, mac, mtu };
  const worker = nics.get(name) ?? 0;
  const settings = { addresses, spoofCheck, linkUp, limit: rate.rx, ...(domain === null ? {} : { domain }) };
  return { ...fixed, worker, ...settings, ...NO_GUEST, gone: false };
}

export function argsOf(port: NicPort): NicArgs {
  const { host: _h, features: _f, filter: _r, gone: _g, ...args } = port;
  return args;
}

function nextStep(name: string, input: NicPlanInput): NicStep | undefined {
  const { desired, open, ready, hostIsCurrent, placement, protection } = input;
  const key = nicKey(name);
  const nic = desired.nics.find((other) => other.name === name);
  const present = [...open.values()].find((port) => port.name === name);
  const candidates = desired.nicAttachments.filter((other) => other.nic === name && hostIsCurrent(other.host));
  const attachment =
    candidates.find((other) => protection.mayOpen(other)) ?? candidates.find(({ id }) => id === present?.id);
  const domain =
    attachment &&
    protection.nicDomainOf(attachment, present?.id === attachment.id ? (present.domain ?? null) : undefined);
  const wanted =
    nic?.phase === 'ready' && attachment !== undefined ? portOf(nic, attachment, placement, domain) : undefined;

  if (present !== undefined && !(wanted && sameArgs(wanted, present) && !present.gone)) {
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
  const change = changeOf(present, { ...wanted, ...(input.guests.get(present.id) ?? NO_GUEST) });
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
  const fixed = ['id', 'generation', 'host', 'kind', 'interface', 'hub', 'mac', 'mtu'] as const;
  return fixed.every((key) => wanted[key] === present[key]);
}

/** What nic.set must be told; undefined: nothing differs. */
function changeOf(present: NicPort, wanted: NicPort): NicChange | undefined {
  const { limit, linkUp, features, filter, addresses, spoofCheck, domain = null } = wanted;
  const isSameGuard = present.spoofCheck === spoofCheck && String(present.addresses) === String(addresses);
  const change: NicChange = {
    ...(sameLimit(present.limit, limit) ? {} : { limit }),
    ...(present.linkUp === linkUp ? {} : { linkUp }),
    ...(present.features === features ? {} : { features }),
    ...(JSON.stringify(present.filter) === JSON.stringify(filter) ? {} : { filter }),
    ...(isSameGuard ? {} : { addresses, spoofCheck }),
    ...(JSON.stringify(present.domain ?? null) === JSON.stringify(domain) ? {} : { domain }),
  };
  return Object.keys(change).length === 0 ? undefined : change;
}
