// From what an operator asks for to a NIC as it is kept: names and addresses that are made up, and those that
// are given, in one way of writing.
import { createHash } from 'node:crypto';
import { isIP } from 'node:net';
import { refuse } from '../errors.js';
import type { MacvtapMode, Nic } from './model.js';
import type { Limit } from './protocol.js';

export const ADDRESSES_MAX = 16;

export type NicTarget =
  | { kind: 'tap'; interface: string | undefined; bridge: string | undefined }
  | { kind: 'macvtap'; parent: string; mode: MacvtapMode }
  | { kind: 'hub'; hub: string };

export interface NicSpec {
  target: NicTarget;
  mac: string | undefined;
  mtu: number | undefined;
  addresses: readonly string[] | undefined;
  spoofCheck: boolean | undefined;
  linkUp: boolean | undefined;
  rate: { tx: Limit; rx: Limit };
}

/** What can be changed under a guest; what is undefined stays. */
export interface NicChanges {
  addresses?: readonly string[] | undefined;
  spoofCheck?: boolean | undefined;
  linkUp?: boolean | undefined;
  rate?: { tx?: Partial<Limit> | undefined; rx?: Partial<Limit> | undefined } | undefined;
}

const DEFAULT_MTU = 1500;

const digestOf = (text: string) => createHash('sha256').update(text).digest('hex');

/** QEMU's prefix and 24 bits that are the same whenever a NIC of this name is made. `attempt`: another one. */
export function macOf(name: string, attempt = 0): string {
  const hex = digestOf(`mac ${attempt} ${name}`).slice(0, 6);
  return `52:54:00:${hex.slice(0, 2)}:${hex.slice(2, 4)}:${hex.slice(4, 6)}`;
}

/** An interface of our own for a NIC: its name has room for 15 bytes. */
export function interfaceOf(kind: 'tap' | 'macvtap', name: string): string {
  return `${kind === 'tap' ? 'ort' : 'orm'}${digestOf(`interface ${name}`).slice(0, 10)}`;
}

/** Throws invalid_request. `taken`: MAC addresses that a new one must not be. */
export function nicFrom(name: string, spec: NicSpec, taken: ReadonlySet<string>): Nic {
  const { target, mtu = DEFAULT_MTU, spoofCheck = true, linkUp = true, rate } = spec;
  return {
    ...{ name, ...placeOf(name, target) },
    mac: spec.mac === undefined ? freeMac(name, taken) : checkedMac(spec.mac),
    addresses: checkedAddresses(spec.addresses ?? []),
    ...{ mtu, spoofCheck, linkUp, rate, phase: 'ready' },
  };
}

function placeOf(
  name: string,
  target: NicTarget,
): Pick<Nic, 'kind' | 'interface' | 'bridge' | 'parent' | 'mode' | 'hub'> {
  const nowhere = { interface: null, bridge: null, parent: null, mode: null, hub: null };
  switch (target.kind) {
    case 'tap':
      return {
        ...nowhere,
        kind: 'tap',
        interface: target.interface ?? interfaceOf('tap', name),
        bridge: target.bridge ?? null,
      };
    case 'macvtap': {
      const { parent, mode } = target;
      return { ...nowhere, kind: 'macvtap', interface: interfaceOf('macvtap', name), parent, mode };
    }
    case 'hub':
      return { ...nowhere, kind: 'hub', hub: target.hub };
    default:
      return target satisfies never;
  }
}

function freeMac(name: string, taken: ReadonlySet<string>): string {
  let attempt = 0;
  while (taken.has(macOf(name, attempt))) {
    attempt++;
  }
  return macOf(name, attempt);
}

function checkedMac(text: string): string {
  const mac = text.toLowerCase();
  const first = Number.parseInt(mac.slice(0, 2), 16);
  if ((first & 1) === 1) {
    throw refuse('invalid_request', `${text} is a multicast address, which no NIC can have`);
  }
  if (mac === '00:00:00:00:00:00') {
    throw refuse('invalid_request', `${text} is not an address`);
  }
  return mac;
}

/** Sorted, without repetitions. Throws invalid_request. */
export function checkedAddresses(addresses: readonly string[]): string[] {
  const all = [...new Set(addresses.map(canonicalAddress))].sort();
  if (all.length > ADDRESSES_MAX) {
    throw refuse('invalid_request', `${all.length} addresses are too many: a NIC has at most ${ADDRESSES_MAX}`);
  }
  return all;
}

export interface AddressPrefix {
  family: 4 | 6;
  /** 4 or 16. */
  bytes: Uint8Array;
  prefix: number;
}

function canonicalAddress(text: string): string {
  const { family, bytes, prefix } = parseAddress(text);
  const full = bytes.length * 8;
  const hostBits = bytes.some((byte, i) => (byte & (0xff >> Math.min(8, Math.max(0, prefix - i * 8)))) !== 0);
  const host = textOf(family, bytes);
  if (prefix < full && hostBits) {
    throw refuse('invalid_request', `${text} is an address within a network: say ${host}, or name the whole network`);
  }
  return prefix === full ? host : `${host}/${prefix}`;
}

/** `10.0.0.5`, `10.0.0.0/24`, `2001:db8::/64`. Throws invalid_request. */
export function parseAddress(text: string): AddressPrefix {
  const [host = '', prefixText, rest] = text.split('/');
  const family = isIP(host);
  const full = family === 4 ? 32 : 128;
  const prefix = prefixText === undefined ? full : Number(prefixText);
  const isPrefix = prefixText === undefined || (/^\d{1,3}$/.test(prefixText) && prefix <= full);
  if (family === 0 || host.includes('%') || !isPrefix || rest !== undefined) {
    throw refuse('invalid_request', `${text} is not an address such as 10.0.0.5, 10.0.0.0/24 or 2001:db8::5`);
  }
  return { family: family as 4 | 6, bytes: family === 4 ? bytesOf4(host) : bytesOf6(host), prefix };
}

function bytesOf4(host: string): Uint8Array {
  return Uint8Array.from(host.split('.').map(Number));
}

function bytesOf6(host: string): Uint8Array {
  // The URL parser knows every way of writing one, and answers with groups only.
  const [head = '', tail] = new URL(`http://[${host}]`).hostname.slice(1, -1).split('::');
  const groups = (part: string | undefined) => (part ? part.split(':').map((group) => Number.parseInt(group, 16)) : []);
  const [before, after] = [groups(head), groups(tail)];
  const middle = new Array<number>(8 - before.length - after.length).fill(0);
  return Uint8Array.from([...before, ...middle, ...after].flatMap((group) => [group >> 8, group & 0xff]));
}

function textOf(family: 4 | 6, bytes: Uint8Array): string {
  if (family === 4) {
    return bytes.join('.');
  }
  const groups = Array.from({ length: 8 }, (_, i) =>
    (((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0)).toString(16),
  );
  return new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1);
}
