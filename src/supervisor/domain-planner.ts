// The planner of protection domains, a pure function like planIohv, which calls it, and what the rest of the plan asks
// of them: which volume belongs into which domain, and with which permission an attachment may use it.
//
//   domain.create, later domain.open ──> volume.open in it, or volume.protect of one that is open ──> exports, NICs
//                        │
//   takeover, reset:     └─> domain.fence (fence or reset, then abort) ──> exports and NICs of the new generation
//   left alone:  volume.release, when only those export it that may have it without a domain
//   removed:     domain.remove, which commits and applies all that is held, lets volumes and VMs go, and forgets the rest
//
// A volume of a domain is not served without the domain: what that holds is a part of it. Nothing is in a domain that is
// not durably known to have been open once.
import type { Attachment, Desired, Domain, DomainMember, NicAttachment } from './model.js';
import type { DomainArgs, DomainRow, ExportArgs, ExportRow, NicDomain, VolumeDomain, VolumeRow } from './protocol.js';

export type DomainStep = { key: string } & (
  | { do: 'domain.create'; domain: Domain; worker: number }
  | { do: 'domain.open'; domain: Domain; worker: number }
  | ({ do: 'domain.set'; id: number } & Pick<DomainArgs, 'overflow' | 'commitTimeoutMs'>)
  | { do: 'domain.fence'; domain: Domain }
  | { do: 'domain.remove'; domain: Domain }
  | { do: 'domain.close'; id: number }
  | { do: 'volume.protect'; name: string; domain: VolumeDomain; generation: number }
  | { do: 'volume.release'; name: string; generation: number }
);

/** Of a volume that moves: one that is in no domain is served all the same. */
export const moveKey = (name: string) => `move:${name}`;
export const domainKey = (name: string) => `domain:${name}`;
export const fenceKey = (name: string) => `fence:${name}`;
export const protectKey = (volume: string) => `protect:${volume}`;

export interface DomainPlanInput {
  desired: Desired;
  /** Those that the engine has open, by id. */
  open: ReadonlyMap<number, DomainRow>;
  volumes: ReadonlyMap<string, VolumeRow>;
  exports: ReadonlyMap<number, ExportRow>;
  /** Where each domain belongs. */
  workerOf(domain: Domain): number;
}

/** What an attachment may do with a volume, for ExportArgs. */
type Permission = Pick<ExportArgs, 'domainGeneration' | 'standby'>;

/** The domains, as the plan of everything else sees them. */
export class Protection {
  private readonly input: DomainPlanInput;
  private readonly members = new Map<string, { domain: Domain; member: DomainMember }>();
  private readonly volumes = new Map<string, { domain: Domain; args: VolumeDomain; leaving: boolean }>();

  constructor(input: DomainPlanInput) {
    this.input = input;
    for (const domain of input.desired.domains) {
      for (const member of domain.members) {
        this.members.set(member.vm, { domain, member });
      }
      for (const { volume, id, leaving } of domain.volumes) {
        this.volumes.set(volume, { domain, args: { id: domain.id, volumeId: id }, leaving });
      }
    }
  }

  /** How the volume is to be opened; undefined: in no domain. */
  domainOf(volume: string): VolumeDomain | undefined {
    return this.volumes.get(volume)?.args;
  }

  /** Keys of the steps without which the volume cannot be served. */
  keysFor(volume: string): string[] {
    const domain = this.volumes.get(volume)?.domain;
    return domain ? [domainKey(domain.name), moveKey(volume), protectKey(volume)] : [];
  }

  /** Whether the volume can be opened: its domain is there. */
  canOpen(volume: string): boolean {
    const domain = this.volumes.get(volume)?.domain;
    return domain === undefined || (domain.phase !== 'creating' && this.input.open.has(domain.id));
  }

  /** Whether an open volume is in a domain that nobody knows of. */
  isStray({ name, domain }: VolumeRow): boolean {
    return domain !== undefined && this.volumes.get(name)?.args.id !== domain.id;
  }

  /** Whether an open volume is in the domain that it shall be in, and in no other. */
  isInPlace({ name, domain }: VolumeRow): boolean {
    const wanted = this.volumes.get(name);
    return wanted === undefined ? !domain : domain?.id === wanted.args.id && !wanted.leaving;
  }

  /** For an export of a volume that is, or is not yet, in its domain. */
  permissionOf({ vm, volume, readOnly }: Attachment): Permission {
    const found = this.members.get(vm);
    const row = this.input.volumes.get(volume);
    if (found === undefined || readOnly || row?.domain?.id !== found.domain.id) {
      return {};
    }
    return this.mayRun(found) ? { domainGeneration: found.member.generation } : { standby: true };
  }

  /** Whether the NIC may be open for the guest of this attachment. */
  mayOpen({ vm }: NicAttachment): boolean {
    const found = this.members.get(vm);
    return found === undefined || (found.member.role === 'active' && this.mayRun(found));
  }

  /** What holds the packets of the guest of this attachment; `present`: what holds them now, undefined: not open. */
  nicDomainOf({ vm }: NicAttachment, present: NicDomain | null | undefined): NicDomain | null {
    const found = this.members.get(vm);
    if (found === undefined) {
      return null;
    }
    const wanted = { id: found.domain.id, generation: found.member.generation };
    return this.mayRun(found) && found.domain.phase === 'ready' ? wanted : present === undefined ? wanted : present;
  }

  steps(): DomainStep[] {
    const { desired, open } = this.input;
    const known = new Set(desired.domains.map(({ id }) => id));
    const strays = [...open.values()].filter(({ id }) => !known.has(id) && !this.isExported(id));
    return [
      ...desired.domains.flatMap((domain) => this.stepOf(domain) ?? []),
      ...[...this.volumes.keys()].flatMap((volume) => this.stepOfVolume(volume) ?? []),
      ...strays.map(({ id, name }): DomainStep => ({ key: domainKey(name), do: 'domain.close', id })),
    ];
  }

  private stepOf(domain: Domain): DomainStep | undefined {
    const { id, name, phase, overflow, commitTimeoutMs } = domain;
    const key = domainKey(name);
    const row = this.input.open.get(id);
    if (phase === 'creating') {
      return { key, do: 'domain.create', domain, worker: this.input.workerOf(domain) };
    }
    if (phase === 'deleting' && isLetGo(domain)) {
      return { key, do: 'domain.remove', domain };
    }
    if (row === undefined) {
      return { key, do: 'domain.open', domain, worker: this.input.workerOf(domain) };
    }
    if (phase === 'deleting') {
      return this.isWhole(domain) ? { key, do: 'domain.remove', domain } : undefined;
    }
    if (!isSettled(domain, row)) {
      return { key: fenceKey(name), do: 'domain.fence', domain };
    }
    if (row.overflow !== overflow || row.commitTimeoutMs !== commitTimeoutMs) {
      return { key, do: 'domain.set', id, overflow, commitTimeoutMs };
    }
    return undefined;
  }

  /** Volumes that are open already come and go under their guests. */
  private stepOfVolume(name: string): DomainStep | undefined {
    const { volumes, open } = this.input;
    const wanted = this.volumes.get(name);
    const row = volumes.get(name);
    if (wanted === undefined || row === undefined || wanted.domain.phase !== 'ready') {
      return undefined;
    }
    const { domain, args, leaving } = wanted;
    const present = open.get(domain.id);
    const key = protectKey(name);
    if (leaving) {
      return this.hasLateExports(name) ? undefined : { key, do: 'volume.release', name, generation: domain.generation };
    }
    if (row.domain !== undefined || present === undefined || !isSettled(domain, present)) {
      return undefined;
    }
    const isThere = (row.worker ?? 0) === present.worker;
    return isThere ? { key, do: 'volume.protect', name, domain: args, generation: domain.generation } : undefined;
  }

  /** Whether every volume of which it may hold something is there; one that it never had may be open without it. */
  private isWhole({ volumes }: Domain): boolean {
    return volumes.every(({ volume }) => this.input.volumes.has(volume));
  }

  /** Of VMs that it was detached from: without the domain, nothing would keep a fenced one from writing. */
  private hasLateExports(name: string): boolean {
    const { desired, exports } = this.input;
    const attached = new Set(desired.attachments.map(({ id }) => id));
    return [...exports.values()].some(({ id, volume }) => volume === name && !attached.has(id));
  }

  private isExported(id: number): boolean {
    const volumes = [...this.input.volumes.values()].filter(({ domain }) => domain?.id === id);
    const used = new Set([...this.input.exports.values()].map(({ volume }) => volume));
    return volumes.some(({ name }) => used.has(name));
  }

  /** A fenced VM has its old permission, which is refused everything; a new one waits until the old ones are fenced. */
  private mayRun({ domain, member: { role } }: { domain: Domain; member: DomainMember }): boolean {
    const row = this.input.open.get(domain.id);
    return role === 'fenced' || (role === 'active' && row !== undefined && isSettled(domain, row));
  }
}

/** Whether nothing is left of it but its journal, which may be gone as well. */
const isLetGo = ({ members, volumes }: Domain) => members.length === 0 && volumes.length === 0;

/** Whether the engine has done what the present generation asks for. */
export function isSettled(domain: Domain, row: DomainRow): boolean {
  return domain.intent === null && row.generation >= domain.generation;
}

/** Whether an export must be added again: it waits no longer, or another generation may run. */
export function isOutdated(wanted: Permission, present: ExportRow): boolean {
  return (
    wanted.standby !== true &&
    (present.standby === true || (present.domainGeneration ?? 0) !== (wanted.domainGeneration ?? 0))
  );
}
