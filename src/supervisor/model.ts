// The desired state of an I/O hypervisor: what the operator asked for and the store keeps.
import { createHash } from 'node:crypto';
import type { DeviceEntry, DiskEntry, NetEntry } from './documents.js';
import { isUnlimited } from './limits.js';
import type { DomainOverflow, Geometry, Limit, NicKind, VolumeCache, VolumeKind } from './protocol.js';

/** creating: its file is being made; deleting: it goes as soon as the engine has closed it. */
export type VolumePhase = 'creating' | 'ready' | 'deleting';

/** A file of a volume: what an overlay does not hold is in the next one of the chain. Only a head is written to. */
export interface Layer {
  /** Names what it holds, for ever: 16 hexadecimal digits, never used twice. */
  content: string;
  path: string;
  /** Of the volume when this was its head, bytes. */
  size: number;
  /** No overlay, but the content as it is: the last of a chain only. */
  raw: boolean;
  /** Made by someone else: never removed. */
  adopted: boolean;
  /** The content that the file's header names, when it was another layer's into which this one was merged. */
  header?: string;
}

/** Of two layers that are to become one: nothing but `upper` needs `lower`, which takes its place. */
export interface LayerMerge {
  upper: Layer;
  lower: Layer;
  /** The cluster that comes next: those before it are merged. */
  next: number;
}

/** What a layer has or has not, bytes; so it is in native/layers/. */
export const CLUSTER = 4096;

/** How many layers a chain has at most; so it is in native/layers/. */
export const LAYERS_MAX = 64;

/** What a volume held at a moment. */
export interface Snapshot {
  volume: string;
  name: string;
  /** ms since the epoch. */
  createdAt: number;
  /** Head first, and never empty; the first was the head of the volume. */
  layers: Layer[];
}

/** What a clone began with: a snapshot, or the volume as it was then. */
export interface CloneBase {
  volume: string;
  snapshot: string | null;
}

export interface Volume {
  name: string;
  kind: VolumeKind;
  /** The raw file or block device that it began with; null for ram and null volumes, and for clones. */
  path: string | null;
  /** Its files, head first; none for ram and null volumes. */
  layers: Layer[];
  base: CloneBase | null;
  /** Bytes, as asked for or as found when adopted. */
  size: number;
  blockSize: number;
  readOnly: boolean;
  /** Made by someone else: its data outlives the volume. */
  adopted: boolean;
  phase: VolumePhase;
  /** What the engine found when it opened the volume; null before the first time. */
  geometry: Geometry | null;
  /** After which a request that is not answered becomes an error; 0: it waits for ever. */
  ioTimeoutMs: number;
  /** Of each disk that it is attached as. */
  limit: Limit;
  /** Of no effect on ram and null volumes. */
  cache: VolumeCache;
  /** The worker that it is to be with; null: whichever the policy chooses. */
  worker: number | null;
  /** Why acknowledged data may be lost; null: it is not. Outlives engines, ends with the last attachment. */
  fault: string | null;
}

export const MACVTAP_MODES = ['bridge', 'vepa', 'private', 'passthru', 'source'] as const;
export type MacvtapMode = (typeof MACVTAP_MODES)[number];

/** deleting: it goes as soon as the engine has closed it. */
export type NicPhase = 'ready' | 'deleting';

/** A NIC of a VM, and where its frames leave the I/O hypervisor. */
export interface Nic {
  name: string;
  kind: NicKind;
  /** The tap or macvtap that the engine opens, null for a hub. It is made when it is not there. */
  interface: string | null;
  /** The bridge that the tap is a port of; null: none, or it is the operator's business. */
  bridge: string | null;
  /** Below a macvtap. */
  parent: string | null;
  mode: MacvtapMode | null;
  hub: string | null;
  mac: string;
  mtu: number;
  /** What the guest may send from; none: any. */
  addresses: string[];
  spoofCheck: boolean;
  linkUp: boolean;
  /** As the guest sees it: tx is what it sends. */
  rate: { tx: Limit; rx: Limit };
  phase: NicPhase;
}

interface AttachmentBase {
  /** Never reused, by no disk or NIC. */
  id: number;
  /** Grows with every attachment of the whole system; what carries an older one is refused. */
  generation: number;
  vm: string;
  host: string;
  queues: number;
}

/**
 * Of a VM in a domain. active: it runs; standby: a copy that may take over; fenced: it was active, and nothing that it
 * does has an effect any more.
 */
export type MemberRole = 'active' | 'standby' | 'fenced';

export interface DomainMember {
  vm: string;
  role: MemberRole;
  /** With which it is or was active; of a standby 0. */
  generation: number;
}

/** leaving: nobody has it attached any more, and the engine still has to commit and apply what it holds of it. */
export interface ProtectedVolume {
  volume: string;
  /** Durable, of the volume in its domain: 16 hexadecimal digits. */
  id: string;
  leaving: boolean;
}

/** creating: it was never open, its journal is being made; deleting: it goes when the engine holds nothing for it. */
export type DomainPhase = 'creating' | 'ready' | 'deleting';

/**
 * What the engine has still to do for the present generation: fence the older ones, and then drop what was not
 * committed (abort) or not (keep), or end the state `rewind` (reset).
 */
export type DomainIntent = 'abort' | 'keep' | 'reset';

/** VMs that are checkpointed together: docs/intercept.md. */
export interface Domain {
  /** Never reused. */
  id: number;
  name: string;
  /** That it may hold. */
  bytes: number;
  journal: { path: string; bytes: number; id: string };
  /** A permission to run, raised by every takeover and reset. */
  generation: number;
  /** Where its volumes and NICs are, modulo how many there are. */
  worker: number;
  overflow: DomainOverflow;
  /** 0: no limit. */
  commitTimeoutMs: number;
  phase: DomainPhase;
  /** null: the engine has done it. */
  intent: DomainIntent | null;
  /** The epoch at which a VM may resume, of the last takeover or reset; null: there was none. */
  resumeEpoch: number | null;
  /** ms since the epoch. */
  createdAt: number;
  members: DomainMember[];
  volumes: ProtectedVolume[];
}

/** Of a volume, as a disk of a VM. */
export interface Attachment extends AttachmentBase {
  disk: string;
  volume: string;
  readOnly: boolean;
  /** Its share of the I/O hypervisor when several disks want it. */
  weight: number;
}

/** A NIC is attached to one VM, or to copies of it in a domain, and has its own name in the VM. */
export interface NicAttachment extends AttachmentBase {
  nic: string;
  /** QEMU's monitor on the host, for what the guest wants to receive; null: the default filter. */
  qmp: string | null;
}

export interface Desired {
  /** Grows with every change. */
  revision: number;
  /** The budget of the block cache that the operator set; null: the configuration's. */
  cacheBytes: number | null;
  volumes: Volume[];
  snapshots: Snapshot[];
  /** Files that nothing needs any more, and that are to be removed. */
  dying: Layer[];
  /** Those nearer to the bottom first. */
  merges: LayerMerge[];
  attachments: Attachment[];
  nics: Nic[];
  nicAttachments: NicAttachment[];
  domains: Domain[];
}

export interface KnownHost {
  name: string;
  keyBase64: string;
  keyId: string;
}

/** Throws when a volume has no file: only for those of kind `file`. */
export function headOf({ name, layers }: Pick<Volume, 'name' | 'layers'>): Layer {
  const [head] = layers;
  if (head === undefined) {
    throw new Error(`the volume ${name} has no layer`);
  }
  return head;
}

/** What the guest sees as the disk's serial number, at most 20 bytes: the volume's name or a digest of it. */
export function serialOf(volume: string): string {
  if (volume.length <= 20) {
    return volume;
  }
  return `${volume.slice(0, 11)}-${createHash('sha256').update(volume).digest('hex').slice(0, 8)}`;
}

/** Which worker serves what; what is not here is with worker 0. */
export interface Placement {
  /** By name. */
  volumes: ReadonlyMap<string, Placed>;
  nics: ReadonlyMap<string, number>;
  /** By id. */
  domains: ReadonlyMap<number, number>;
}

export interface Placed {
  worker: number;
  /** Changes with every move: see VolumeRow. */
  placement: number;
  /** What put it there: a policy, `pinned`, `protected` (it goes with its domain) or `operator`. */
  reason: string;
}

export const ONE_WORKER: Placement = { volumes: new Map(), nics: new Map(), domains: new Map() };

/** An entry of a device without them is with worker 0, and has never moved. */
const placeOf = ({ worker = 0, placement = 0 }: Partial<Placed> = {}) => ({
  ...(worker === 0 ? {} : { worker }),
  ...(placement === 0 ? {} : { placement }),
});
const limitOf = (limit: Limit) => (isUnlimited(limit) ? {} : { limit });

/**
 * The devices of a host, out of the desired state and of where things are placed alone: an engine that restarts
 * changes nothing in it.
 */
export function devicesOf(host: string, desired: Desired, placement = ONE_WORKER): DeviceEntry[] {
  return [...disksOf(host, desired, placement), ...netsOf(host, desired, placement)];
}

function disksOf(host: string, desired: Desired, placement: Placement): DiskEntry[] {
  const volumes = new Map(desired.volumes.map((volume) => [volume.name, volume]));
  return desired.attachments
    .filter((attachment) => attachment.host === host)
    .flatMap((attachment) => {
      const found = volumes.get(attachment.volume);
      if (!found?.geometry) {
        return []; // never opened so far: there is no size to announce
      }
      const { id, generation, vm, disk, volume, queues, readOnly } = attachment;
      const { size, blockSize, physicalBlockSize, discard, writeZeroes } = found.geometry;
      return [
        {
          ...{ id, generation, vm, disk, volume, queues, readOnly },
          ...{ size, blockSize, physicalBlockSize, discard, writeZeroes },
          serial: serialOf(volume),
          ...(found.ioTimeoutMs ? { ioTimeoutMs: found.ioTimeoutMs } : {}),
          ...limitOf(found.limit),
          ...placeOf(placement.volumes.get(volume)),
        },
      ];
    });
}

function netsOf(host: string, desired: Desired, placement: Placement): NetEntry[] {
  const nics = new Map(desired.nics.map((nic) => [nic.name, nic]));
  return desired.nicAttachments
    .filter((attachment) => attachment.host === host)
    .flatMap(({ id, generation, vm, nic, queues, qmp }) => {
      const found = nics.get(nic);
      if (found === undefined) {
        return [];
      }
      const { mac, mtu, linkUp, rate } = found;
      const fixed = { id, generation, vm, nic, mac, mtu, queues, linkUp };
      const where = placeOf({ worker: placement.nics.get(nic) ?? 0 });
      return [{ kind: 'net' as const, ...fixed, ...limitOf(rate.tx), ...where, ...(qmp === null ? {} : { qmp }) }];
    });
}
