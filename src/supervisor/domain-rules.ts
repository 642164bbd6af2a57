// What protection domains ask of attachments: who may share a disk or a NIC, and with which worker they are.
import { listNames, refuse } from '../errors.js';
import type { IohvSupervisor } from './iohv-supervisor.js';
import type { Desired, Domain, DomainMember, MemberRole } from './model.js';

/** Throws domain_not_found. */
export function findDomain(domains: readonly Domain[], name: string): Domain {
  const domain = domains.find((other) => other.name === name);
  if (domain === undefined) {
    throw refuse('domain_not_found', `there is no domain ${name}`, {
      known: listNames(domains.map((one) => one.name)),
    });
  }
  return domain;
}

/** The domain that the VM is in, if any. */
export function domainOfVm(domains: readonly Domain[], vm: string): Domain | undefined {
  return domains.find(({ members }) => members.some((member) => member.vm === vm));
}

/** undefined: it is in no domain. */
export function roleOf(domains: readonly Domain[], vm: string): MemberRole | undefined {
  return domainOfVm(domains, vm)?.members.find((member) => member.vm === vm)?.role;
}

/** What the domain of a VM means for its disks and NICs; empty: nothing. */
export function restrictionOf(domains: readonly Domain[], vm: string): string {
  const name = domainOfVm(domains, vm)?.name ?? '';
  const texts: Partial<Record<MemberRole, string>> = {
    standby: `its requests wait until ${vm} takes over in the protection domain ${name}`,
    fenced: `${vm} is fenced in the protection domain ${name}: another copy has taken over`,
  };
  return texts[roleOf(domains, vm) ?? 'active'] ?? '';
}

/** The domain that the volume is in, also while it is on its way out. */
export function domainOfVolume(domains: readonly Domain[], name: string): Domain | undefined {
  return domains.find(({ volumes }) => volumes.some(({ volume }) => volume === name));
}

/** Whether both VMs may have a disk or a NIC attached, because at most one of them runs: they are in one domain. */
export function areCopies(domains: readonly Domain[], one: string, other: string): boolean {
  const members = domainOfVm(domains, one)?.members ?? [];
  const pair = members.filter(({ vm }) => vm === one || vm === other);
  return pair.length === 2 && pair.some(({ role }) => role !== 'active');
}

/** Throws volume_protected when the volume is in a domain, or is not out of one yet. */
export function assertUnprotected(domains: readonly Domain[], name: string): void {
  const domain = domainOfVolume(domains, name);
  if (domain !== undefined) {
    throw refuse('volume_protected', `the volume ${name} is in the protection domain ${domain.name}`, {
      domain: domain.name,
    });
  }
}

/**
 * NICs of a domain are with its worker, and so is all of a hub; what is open elsewhere does not move.
 * Throws domain_nic_elsewhere.
 */
export function assertNicsFit(
  { nics, nicAttachments, domains }: Desired,
  supervisor: Pick<IohvSupervisor, 'workerOfOpenNic' | 'workerCount'>,
  { worker }: Pick<Domain, 'worker'>,
  names: readonly string[],
): void {
  const placed = (at: number) => at % supervisor.workerCount;
  for (const name of names) {
    const hub = nics.find((nic) => nic.name === name)?.hub ?? null;
    const group = nics.filter((nic) => nic.name === name || (hub !== null && nic.hub === hub)).map((nic) => nic.name);
    const others = nicAttachments
      .filter(({ nic }) => group.includes(nic))
      .flatMap(({ vm }) => domainOfVm(domains, vm)?.worker ?? [])
      .map(placed);
    const open = group.flatMap((nic) => supervisor.workerOfOpenNic(nic) ?? []);
    const elsewhere = [...open, ...others].find((at) => at !== placed(worker));
    if (elsewhere !== undefined) {
      const what = `the NIC ${name} is with worker ${elsewhere}, the domain with worker ${placed(worker)}`;
      throw refuse('domain_nic_elsewhere', what, { nic: name });
    }
  }
}

/** Those of `vms` that have a disk or a NIC in common with `vm`. */
export function sharers({ attachments, nicAttachments }: Desired, vm: string, vms: readonly string[]): string[] {
  const volumes = new Set(attachments.filter((use) => use.vm === vm && !use.readOnly).map(({ volume }) => volume));
  const nics = new Set(nicAttachments.filter((use) => use.vm === vm).map(({ nic }) => nic));
  const rivals = [
    ...attachments.filter((use) => !use.readOnly && volumes.has(use.volume)),
    ...nicAttachments.filter((use) => nics.has(use.nic)),
  ];
  return [...new Set(rivals.map((use) => use.vm))].filter((other) => other !== vm && vms.includes(other));
}

/** That the VMs of `members`, who must not write outside the domain, have nothing attached. Throws domain_shared. */
export function assertDetached({ attachments, nicAttachments }: Desired, members: readonly DomainMember[]): void {
  const late = members.filter(({ vm }) => [...attachments, ...nicAttachments].some((use) => use.vm === vm));
  if (late.length > 0) {
    const names = late.map(({ vm, role }) => `${vm} (${role})`).join(', ');
    const commands = late.map(({ vm }) => `outrigger detach ${vm}`).join('; ');
    throw refuse('domain_shared', `${names} must not write without the domain`, { commands });
  }
}
