// Rows of the store's tables and what they stand for.
import { CACHE_DEFAULT } from './cache.js';
import { NO_LIMIT } from './limits.js';
import type { Attachment, Layer, MacvtapMode, Nic, NicAttachment, NicPhase, Volume, VolumePhase } from './model.js';
import {
  type Geometry,
  type Limit,
  type NicKind,
  type VolumeCache,
  type VolumeKind,
  WEIGHT_DEFAULT,
} from './protocol.js';

export interface VolumeRecord {
  name: string;
  kind: VolumeKind;
  path: string | null;
  size: number;
  block_size: number;
  read_only: number;
  adopted: number;
  phase: VolumePhase;
  geometry: string | null;
  rate: string | null;
  head: string | null;
  base: string | null;
  base_snapshot: string | null;
  fault: string | null;
  io_timeout_ms: number;
  worker: number | null;
  cache: string | null;
}

export function toVolume(record: VolumeRecord, layers: Layer[]): Volume {
  const { name, kind, path, size, phase, fault, worker } = record;
  return {
    ...{ name, kind, path, size, phase, fault, worker, layers },
    base: record.base === null ? null : { volume: record.base, snapshot: record.base_snapshot },
    blockSize: record.block_size,
    readOnly: record.read_only === 1,
    adopted: record.adopted === 1,
    ioTimeoutMs: record.io_timeout_ms,
    cache: { ...CACHE_DEFAULT, ...(record.cache === null ? {} : (JSON.parse(record.cache) as Partial<VolumeCache>)) },
    limit: record.rate === null ? NO_LIMIT : (JSON.parse(record.rate) as Limit),
    geometry: record.geometry === null ? null : (JSON.parse(record.geometry) as Geometry),
  };
}

export interface NicRecord {
  name: string;
  kind: NicKind;
  interface: string | null;
  bridge: string | null;
  parent: string | null;
  mode: MacvtapMode | null;
  hub: string | null;
  mac: string;
  mtu: number;
  addresses: string;
  spoof_check: number;
  link_up: number;
  rate: string;
  phase: NicPhase;
}

export function toNic({ spoof_check, link_up, addresses, rate, ...same }: NicRecord): Nic {
  return {
    ...same,
    addresses: JSON.parse(addresses) as string[],
    spoofCheck: spoof_check === 1,
    linkUp: link_up === 1,
    rate: JSON.parse(rate) as Nic['rate'],
  };
}

export function fromNic({ spoofCheck, linkUp, addresses, rate, ...same }: Nic): NicRecord {
  return {
    ...same,
    addresses: JSON.stringify(addresses),
    spoof_check: Number(spoofCheck),
    link_up: Number(linkUp),
    rate: JSON.stringify(rate),
  };
}

interface AttachmentRecordBase {
  id: number;
  generation: number;
  vm: string;
  host: string;
  queues: number;
}

export type AttachmentRecord = AttachmentRecordBase &
  (
    | { kind: 'disk'; disk: string; volume: string; read_only: number; weight: number | null }
    | { kind: 'nic'; nic: string; qmp: string | null }
  );

export function toAttachment(record: AttachmentRecord): Attachment[] {
  if (record.kind !== 'disk') {
    return [];
  }
  const { id, generation, vm, disk, host, volume, queues, read_only, weight } = record;
  const same = { id, generation, vm, disk, host, volume, queues };
  return [{ ...same, readOnly: read_only === 1, weight: weight ?? WEIGHT_DEFAULT }];
}

export function toNicAttachment(record: AttachmentRecord): NicAttachment[] {
  if (record.kind !== 'nic') {
    return [];
  }
  const { id, generation, vm, nic, host, queues, qmp } = record;
  return [{ id, generation, vm, nic, host, queues, qmp }];
}
