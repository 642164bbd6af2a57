// What an operator can do to NICs: see operations.ts, which attaches them together with disks.
import { listNames, refuse } from '../errors.js';
import type { Logger } from '../telemetry/log.js';
import { areCopies } from './domain-rules.js';
import type { IohvSupervisor } from './iohv-supervisor.js';
import { mergeLimit, sameLimit } from './limits.js';
import type { Domain, Nic, NicAttachment } from './model.js';
import type { NetSetup } from './net-setup.js';
import { checkedAddresses, type NicChanges, type NicSpec, nicFrom } from './nic-spec.js';
import type { NewNicAttachment, Store } from './store.js';

export interface NicOperationsOptions {
  store: Store;
  supervisor: IohvSupervisor;
  net: NetSetup;
  log: Logger;
  /** How long an operation waits for the engine to follow. */
  applyTimeoutMs: number;
}

export class NicOperations {
  private readonly options: NicOperationsOptions;

  constructor(options: NicOperationsOptions) {
    this.options = options;
  }

  /** Returns whether the NIC is new. */
  async create(name: string, spec: NicSpec): Promise<boolean> {
    const { store, supervisor, net, log, applyTimeoutMs } = this.options;
    const draft = nicFrom(name, spec, new Set());
    if (!store.desired().nics.some((other) => other.name === name)) {
      await net.check(draft);
    }

    const { nics } = store.desired();
    const twin = nics.find((other) => other.name === name);
    if (twin !== undefined) {
      assertSame(twin, { ...draft, mac: spec.mac === undefined ? twin.mac : draft.mac });
      return false;
    }
    const nic = nicFrom(name, spec, new Set(nics.map(({ mac }) => mac)));
    const [sameMac, sameInterface] = [
      nics.find(({ mac }) => mac === nic.mac),
      nics.find((other) => other.interface !== null && other.interface === nic.interface),
    ];
    if (sameMac !== undefined) {
      throw refuse('nic_mac_taken', `${nic.mac} is the address of the NIC ${sameMac.name}`, { nic: sameMac.name });
    }
    if (sameInterface !== undefined) {
      throw refuse('nic_interface_taken', `${nic.interface} belongs to the NIC ${sameInterface.name}`, {
        nic: sameInterface.name,
      });
    }
    store.putNic(nic);
    log.info('nic.created', { nic: name, kind: nic.kind, mac: nic.mac, interface: nic.interface, hub: nic.hub });
    await supervisor.apply(applyTimeoutMs);
    return true;
  }

  /** Applies at once, also under a guest. What is not told stays. */
  async set(name: string, changes: NicChanges): Promise<void> {
    const { store, supervisor, log, applyTimeoutMs } = this.options;
    const nic = findNic(store.desired().nics, name);
    assertNotDeleting(nic);
    const { rate, addresses, spoofCheck = nic.spoofCheck, linkUp = nic.linkUp } = changes;
    const changed: Nic = {
      ...nic,
      ...{ spoofCheck, linkUp },
      addresses: addresses === undefined ? nic.addresses : checkedAddresses(addresses),
      rate: { tx: mergeLimit(nic.rate.tx, rate?.tx ?? {}), rx: mergeLimit(nic.rate.rx, rate?.rx ?? {}) },
    };
    const differences = differencesOf(nic, changed);
    if (differences.length > 0) {
      store.putNic(changed);
      log.info('nic.changed', { nic: name, changed: differences.join(', ') });
    }
    await supervisor.apply(applyTimeoutMs);
  }

  async delete(name: string): Promise<void> {
    const { store, supervisor, log, applyTimeoutMs } = this.options;
    const { nics, nicAttachments } = store.desired();
    findNic(nics, name);
    const user = nicAttachments.find(({ nic }) => nic === name);
    if (user !== undefined) {
      const command = `outrigger detach ${user.vm} --nic ${name}`;
      throw refuse('nic_in_use', `the NIC ${name} is attached to ${user.vm} on host ${user.host}`, { command });
    }
    store.startDeleteNic(name);
    log.info('nic.removed', { nic: name });
    await supervisor.apply(applyTimeoutMs);
  }
}

export function findNic(nics: readonly Nic[], name: string): Nic {
  const nic = nics.find((other) => other.name === name);
  if (nic === undefined) {
    const known = listNames(nics.map((other) => other.name));
    throw refuse('nic_not_found', `there is no NIC ${name}`, { known });
  }
  return nic;
}

/** False when it is there already. Throws when it conflicts with another attachment. */
export function isNewNicAttachment(
  wanted: NewNicAttachment,
  nics: readonly Nic[],
  others: readonly (NicAttachment | NewNicAttachment)[],
  domains: readonly Domain[],
): boolean {
  assertNotDeleting(findNic(nics, wanted.nic));
  const users = others.filter(({ nic }) => nic === wanted.nic);
  const twin = users.find(({ vm }) => vm === wanted.vm) ?? users.find(({ vm }) => !areCopies(domains, vm, wanted.vm));
  if (twin === undefined) {
    return true;
  }
  if (twin.vm === wanted.vm && twin.queues === wanted.queues && twin.qmp === wanted.qmp) {
    return false;
  }
  const how = `queues ${twin.queues}${twin.qmp === null ? '' : `, qmp ${twin.qmp}`}`;
  throw refuse('nic_busy', `the NIC ${wanted.nic} is attached to the VM ${twin.vm} on host ${twin.host} (${how})`, {
    ...{ vm: twin.vm, nic: wanted.nic },
  });
}

function assertNotDeleting({ name, phase }: Nic): void {
  if (phase === 'deleting') {
    throw refuse('nic_deleting', `the NIC ${name} is being removed`);
  }
}

/** `mtu is 1500, not 9000`, ... */
function differencesOf(present: Nic, wanted: Nic): string[] {
  const plain = ['kind', 'interface', 'bridge', 'parent', 'mode', 'hub', 'mac', 'mtu', 'spoofCheck', 'linkUp'] as const;
  const differences = plain
    .filter((key) => present[key] !== wanted[key])
    .map((key) => `${key} is ${present[key]}, not ${wanted[key]}`);
  if (String(present.addresses) !== String(wanted.addresses)) {
    const list = (nic: Nic) => nic.addresses.join(' ') || 'any';
    differences.push(`addresses are ${list(present)}, not ${list(wanted)}`);
  }
  for (const direction of ['tx', 'rx'] as const) {
    if (!sameLimit(present.rate[direction], wanted.rate[direction])) {
      differences.push(`${direction} rate differs`);
    }
  }
  return differences;
}

function assertSame(present: Nic, wanted: Nic): void {
  assertNotDeleting(present);
  const differences = differencesOf(present, wanted);
  if (differences.length > 0) {
    throw refuse('nic_exists', `the NIC ${present.name} exists: its ${differences.join(', its ')}`, {
      nic: present.name,
    });
  }
}
