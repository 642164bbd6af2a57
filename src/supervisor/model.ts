// The desired state of an I/O hypervisor: what the operator asked for and the store keeps.
import { createHash } from 'node:crypto';
import type { DeviceEntry } from './documents.js';
import type { Geometry, VolumeKind } from './protocol.js';

/** creating: its file is being made; deleting: it goes as soon as the engine has closed it. */
export type VolumePhase = 'creating' | 'ready' | 'deleting';

export interface Volume {
  name: string;
  kind: VolumeKind;
  /** The file or block device; null for ram and null volumes. */
  path: string | null;
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
  /** Why acknowledged data may be lost; null: it is not. Outlives engines, ends with the last attachment. */
  fault: string | null;
}

export interface Attachment {
  /** Never reused. */
  id: number;
  /** Grows with every attachment of the whole system; requests that carry an older one are refused. */
  generation: number;
  vm: string;
  disk: string;
  host: string;
  volume: string;
  readOnly: boolean;
  queues: number;
}

export interface Desired {
  /** Grows with every change. */
  revision: number;
  volumes: Volume[];
  attachments: Attachment[];
}

export interface KnownHost {
  name: string;
  keyBase64: string;
  keyId: string;
}

/** What the guest sees as the disk's serial number, at most 20 bytes: the volume's name or a digest of it. */
export function serialOf(volume: string): string {
  if (volume.length <= 20) {
    return volume;
  }
  return `${volume.slice(0, 11)}-${createHash('sha256').update(volume).digest('hex').slice(0, 8)}`;
}

/** The devices of a host, out of the desired state alone: an engine that restarts changes nothing in it. */
export function devicesOf(host: string, desired: Desired): DeviceEntry[] {
  const volumes = new Map(desired.volumes.map((volume) => [volume.name, volume]));
  return desired.attachments
    .filter((attachment) => attachment.host === host)
    .flatMap((attachment) => {
      const { geometry, ioTimeoutMs } = volumes.get(attachment.volume) ?? {};
      if (!geometry) {
        return []; // never opened so far: there is no size to announce
      }
      const { id, generation, vm, disk, volume, queues, readOnly } = attachment;
      const { size, blockSize, physicalBlockSize, discard, writeZeroes } = geometry;
      return [
        {
          ...{ id, generation, vm, disk, volume, queues, readOnly },
          ...{ size, blockSize, physicalBlockSize, discard, writeZeroes },
          serial: serialOf(volume),
          ...(ioTimeoutMs ? { ioTimeoutMs } : {}),
        },
      ];
    });
}
