// The planner of the I/O hypervisor: a pure function from (desired, actual) to the steps that can be taken
// now. It is called again after every step, so it holds the order of things by what it leaves out:
//
//  - A host is added together with all its exports, when their volumes are open or cannot be opened: a host
//    that comes back after an engine's restart re-sends its requests at once, and one that met a missing
//    export would reach the guest as an I/O error. Requests to a volume that cannot be opened wait for it.
//  - A host hears of a device only after its export exists, and an export goes only after its host has been
//    told that the device is gone.
//  - A volume is closed when nothing exports it, and its files are removed when it is closed.
//  - A head that was put on top of what the engine has open is put there too (a cut), while guests use it. Any other
//    change of a volume's layers closes it and opens it anew. A volume over a layer that is still written to waits.
//  - Layers that became one are so in the engine, too, before the file that is not needed any more is removed. Two
//    layers are merged when whoever has the lower one open comes to it through the upper one, and nobody writes to
//    that. One pair at a time, those nearer to the bottom first: the lower layer of one may be the upper one of another,
//    and what it has must not change while it is copied, nor its file while the engine writes to that.
//  - NICs come and go with the same care for hosts: nic-planner.ts.
//  - A volume in a protection domain is opened when the domain is, and served when it is in it: domain-planner.ts.
//  - A volume moves to the worker where it belongs as soon as it is open, and hosts hear of that afterwards: until
//    then their requests are sent on to nobody, but come again.
import { sameCache } from './cache.js';
import type { DeviceEntry } from './documents.js';
import { type DomainStep, isOutdated, moveKey, Protection } from './domain-planner.js';
import {
  type Desired,
  devicesOf,
  type KnownHost,
  type Layer,
  type LayerMerge,
  ONE_WORKER,
  type Placement,
  type Volume,
} from './model.js';
import { argsOf, type NicStep, nicKey, planNics, portOf } from './nic-planner.js';
import {
  type DomainRow,
  type ExportArgs,
  type ExportRow,
  type GuestNic,
  type NicArgs,
  type NicPort,
  type VolumeCache,
  type VolumeDomain,
  type VolumeRow,
  WEIGHT_DEFAULT,
} from './protocol.js';

/** What the engine has, learnt when it was connected to and kept up by the executor. */
export interface IohvActual {
  /** Host name -> id of its key, null when the engine does not know. */
  hosts: Map<string, string | null>;
  volumes: Map<string, VolumeRow>;
  exports: Map<number, ExportRow>;
  /** Open NICs by attachment. */
  nics: Map<number, NicPort>;
  /** Open ones by id. */
  domains: Map<number, DomainRow>;
  /** NICs whose interface is set up: of the machine, not of the engine. */
  readyNics: Set<string>;
  /** Host name -> the devices it was told of since we are connected. */
  documents: Map<string, DeviceEntry[]>;
  /** The budget of the block cache that was last asked for; 0: there is none. */
  cacheBytes: number;
}

export type IohvStep = NicStep | DomainStep | OtherStep;

type OtherStep = { key: string } & (
  | { do: 'volume.open'; volume: Volume; worker: number; placement: number; domain?: VolumeDomain }
  | { do: 'volume.move'; name: string; from: number; to: number; reason: string }
  | { do: 'volume.cut'; name: string; head: Layer }
  | { do: 'volume.rebase'; name: string; layers: Layer[] }
  | { do: 'layer.merge'; lane: 'merge'; merge: LayerMerge }
  | { do: 'volume.cache'; name: string; cache: VolumeCache }
  | { do: 'cache.set'; bytes: number }
  | { do: 'volume.close'; name: string }
  | { do: 'volume.erase'; volume: Volume }
  | { do: 'layer.erase'; layer: Layer }
  | { do: 'host.add'; host: KnownHost; exports: ExportArgs[]; nics: NicArgs[] }
  | { do: 'host.remove'; name: string }
  | { do: 'export.add'; row: ExportRow }
  | { do: 'export.set'; id: number; weight: number }
  | { do: 'export.remove'; id: number }
  | { do: 'document.set'; host: string; version: number; devices: DeviceEntry[] }
);

export const volumeKey = (name: string) => `volume:${name}`;
/** Nor that of the volume: it is served as it was. */
export const cutKey = (name: string) => `cut:${name}`;
const rebaseKey = (name: string) => `rebase:${name}`;
const mergeKey = (content: string) => `merge:${content}`;
const layerKey = (content: string) => `layer:${content}`;
/** Likewise: one whose use of the cache cannot be changed goes on as before. */
export const cacheKey = (name: string) => `cache:${name}`;
export const CACHE_KEY = 'cache';
export const hostKey = (name: string) => `host:${name}`;
export const exportKey = (id: number) => `export:${id}`;

export function emptyActual(): IohvActual {
  return {
    hosts: new Map(),
    volumes: new Map(),
    exports: new Map(),
    nics: new Map(),
    domains: new Map(),
    readyNics: new Set(),
    documents: new Map(),
    cacheBytes: 0,
  };
}

/**
 * failed: keys of the steps that ended in an error and will be tried again later. guests: what hosts report of
 * attached NICs. placement: the worker to which each volume and NIC belongs.
 */
export function planIohv(
  desired: Desired,
  knownHosts: readonly KnownHost[],
  actual: IohvActual,
  failed: ReadonlySet<string>,
  guests: ReadonlyMap<number, GuestNic> = new Map(),
  placement: Placement = ONE_WORKER,
): IohvStep[] {
  const hosts = new Map(knownHosts.map((host) => [host.name, host]));
  const volumes = new Map(desired.volumes.filter((v) => v.phase === 'ready').map((v) => [v.name, v]));
  const belongsTo = (name: string) => placement.volumes.get(name) ?? { worker: 0, placement: 0, reason: '' };
  const present = whereItIs(actual, placement);
  const placeAt = (name: string) => {
    const { worker = 0, placement: number = 0 } = present.volumes.get(name) ?? {};
    return { worker, placement: number };
  };
  const { volumes: openVolumes, exports: presentExports, domains: openDomains } = actual;
  const protection = new Protection({
    ...{ desired, open: openDomains, volumes: openVolumes, exports: presentExports },
    workerOf: ({ id }) => placement.domains.get(id) ?? 0,
  });
  const exportsWanted = new Map(
    desired.attachments
      .filter(({ host, volume }) => hosts.has(host) && volumes.has(volume))
      .map((attachment) => {
        const { id, generation, host, volume, readOnly, weight } = attachment;
        const fixed = { id, generation, host, volume, readOnly, weight, pending: false };
        return [id, { ...fixed, ...placeAt(volume), ...protection.permissionOf(attachment) }];
      }),
  );

  const hostIsCurrent = (name: string) => {
    const keyId = actual.hosts.get(name);
    return keyId !== undefined && hosts.has(name) && (keyId === null || keyId === hosts.get(name)?.keyId);
  };
  const volumeIsOpen = (name: string) => {
    const [wanted, open] = [volumes.get(name), actual.volumes.get(name)];
    return wanted !== undefined && open !== undefined && isSameVolume(wanted, open);
  };
  const volumeIsServed = (name: string) => {
    const open = actual.volumes.get(name);
    return open !== undefined && volumeIsOpen(name) && protection.isInPlace(open);
  };
  const volumeFailed = (name: string) =>
    !volumeIsServed(name) && [volumeKey(name), ...protection.keysFor(name)].some((key) => failed.has(key));
  const volumeIsStray = (name: string) => {
    const open = actual.volumes.get(name);
    return open !== undefined && protection.isStray(open);
  };
  const exportIsCurrent = (row: ExportRow) =>
    sameExport(exportsWanted.get(row.id), row) &&
    hostIsCurrent(row.host) &&
    (row.pending || (volumeIsOpen(row.volume) && !volumeIsStray(row.volume)));
  const exportsOf = (host: string) => [...exportsWanted.values()].filter((row) => row.host === host);
  const nicsOf = (host: string) => desired.nicAttachments.filter((attachment) => attachment.host === host);
  const openNames = new Set([...actual.nics.values()].map(({ name }) => name));
  const openable = (host: string) =>
    nicsOf(host).flatMap((attachment): NicArgs[] => {
      const nic = desired.nics.find(({ name }) => name === attachment.nic);
      const isFree = actual.readyNics.has(attachment.nic) && !openNames.has(attachment.nic);
      const isWanted = nic?.phase === 'ready' && isFree && protection.mayOpen(attachment);
      const domain = protection.nicDomainOf(attachment, undefined);
      return isWanted ? [argsOf(portOf(nic, attachment, placement, domain))] : [];
    });

  const steps: IohvStep[] = protection.steps();

  const heads = new Set([...actual.volumes.values()].filter((row) => !row.readOnly).map((row) => row.content));
  const isSealed = ({ content }: Layer) => !heads.has(content);
  for (const volume of desired.volumes) {
    const key = volumeKey(volume.name);
    if (actual.volumes.has(volume.name)) {
      continue;
    }
    const canOpen = volume.layers.slice(1).every(isSealed) && protection.canOpen(volume.name);
    if (volume.phase === 'ready' && canOpen) {
      const { worker, placement: number } = belongsTo(volume.name);
      const domain = protection.domainOf(volume.name);
      steps.push({ key, do: 'volume.open', volume, worker, placement: number, ...(domain && { domain }) });
    } else if (volume.phase === 'deleting') {
      steps.push({ key, do: 'volume.erase', volume });
    }
  }

  for (const [name, volume] of volumes) {
    const open = actual.volumes.get(name);
    const head = open && volume.layers[depthOf(volume, open) - 1];
    if (head !== undefined && volumeIsOpen(name)) {
      steps.push({ key: cutKey(name), do: 'volume.cut', name, head });
    }
  }
  for (const [name, volume] of volumes) {
    const open = actual.volumes.get(name);
    if (open !== undefined && volumeIsOpen(name) && depthOf(volume, open) === 0 && !sameChain(volume, open)) {
      steps.push({ key: rebaseKey(name), do: 'volume.rebase', name, layers: volume.layers.slice(1) });
    }
  }

  const uses = (row: VolumeRow, { path }: Layer) => row.layers?.some((layer) => layer.path === path) ?? false;
  const isUsed = (layer: Layer) => [...actual.volumes.values()].some((row) => uses(row, layer));
  for (const layer of desired.dying.filter((other) => !isUsed(other))) {
    steps.push({ key: layerKey(layer.content), do: 'layer.erase', layer });
  }

  for (const merge of desired.merges) {
    const { upper, lower } = merge;
    const isHidden = [...actual.volumes.values()].every((row) => !uses(row, lower) || uses(row, upper));
    if (isSealed(upper) && isSealed(lower) && isHidden) {
      steps.push({ key: mergeKey(lower.content), lane: 'merge', do: 'layer.merge', merge });
    }
  }

  for (const { name, worker: from = 0, domain } of actual.volumes.values()) {
    const { worker: to, reason } = belongsTo(name);
    if (from !== to && volumeIsOpen(name) && domain === undefined) {
      steps.push({ key: moveKey(name), do: 'volume.move', name, from, to, reason });
    }
  }

  const { cacheBytes } = desired;
  if (actual.cacheBytes > 0 && cacheBytes !== null && cacheBytes !== actual.cacheBytes) {
    steps.push({ key: CACHE_KEY, do: 'cache.set', bytes: cacheBytes });
  }
  for (const { name, cache } of volumes.values()) {
    const row = actual.volumes.get(name);
    if (row?.cache !== undefined && volumeIsOpen(name) && !sameCache(row.cache, cache)) {
      steps.push({ key: cacheKey(name), do: 'volume.cache', name, cache });
    }
  }

  for (const host of knownHosts) {
    const rows = exportsOf(host.name);
    const isReady =
      rows.every(({ volume }) => volumeIsServed(volume) || volumeFailed(volume)) &&
      nicsOf(host.name).every(({ nic }) => actual.readyNics.has(nic) || failed.has(nicKey(nic)));
    if (!actual.hosts.has(host.name) && isReady) {
      const exports = rows.map(({ host: _, ...args }) => ({ ...args, pending: !volumeIsServed(args.volume) }));
      steps.push({ key: hostKey(host.name), do: 'host.add', host, exports, nics: openable(host.name) });
    }
  }

  for (const row of exportsWanted.values()) {
    const present = actual.exports.get(row.id);
    const isWanted = present === undefined || present.pending || isOutdated(row, present);
    if (isWanted && hostIsCurrent(row.host) && volumeIsServed(row.volume)) {
      steps.push({ key: exportKey(row.id), do: 'export.add', row });
    }
  }

  for (const { id, weight } of exportsWanted.values()) {
    const row = actual.exports.get(id);
    if (row !== undefined && exportIsCurrent(row) && (row.weight ?? WEIGHT_DEFAULT) !== weight) {
      steps.push({ key: exportKey(id), do: 'export.set', id, weight });
    }
  }

  for (const host of knownHosts) {
    const isServed =
      exportsOf(host.name).every(
        ({ id, volume }) => actual.exports.has(id) || failed.has(exportKey(id)) || volumeFailed(volume),
      ) &&
      nicsOf(host.name).every(
        (nic) => actual.nics.has(nic.id) || failed.has(nicKey(nic.nic)) || !protection.mayOpen(nic),
      );
    const devices = devicesOf(host.name, desired, present);
    if (hostIsCurrent(host.name) && isServed && !sameDevices(actual.documents.get(host.name), devices)) {
      const key = `document:${host.name}`;
      steps.push({ key, do: 'document.set', host: host.name, version: desired.revision, devices });
    }
  }

  for (const row of actual.exports.values()) {
    const told = actual.documents.get(row.host);
    const mayBeInUse = hostIsCurrent(row.host) && (told === undefined || told.some(({ id }) => id === row.id));
    if (!exportIsCurrent(row) && !(mayBeInUse && !exportsWanted.has(row.id))) {
      steps.push({ key: exportKey(row.id), do: 'export.remove', id: row.id });
    }
  }

  const { nics: open, readyNics: ready, documents } = actual;
  steps.push(...planNics({ desired, hostIsCurrent, ready, open, documents, guests, placement, protection }));

  const remaining = [...actual.exports.values()];
  const isEmpty = (host: string) => ![...remaining, ...open.values()].some((row) => row.host === host);
  for (const name of actual.hosts.keys()) {
    if (!hostIsCurrent(name) && isEmpty(name)) {
      steps.push({ key: hostKey(name), do: 'host.remove', name });
    }
  }
  for (const { name, domain } of actual.volumes.values()) {
    if (!volumeIsOpen(name) && domain === undefined && !remaining.some((row) => row.volume === name)) {
      steps.push({ key: volumeKey(name), do: 'volume.close', name });
    }
  }
  return steps;
}

/** What is open is where it is; the rest where it belongs. */
function whereItIs({ volumes, nics }: IohvActual, placement: Placement): Placement {
  const open = [...volumes.values()].map(
    ({ name, worker = 0, placement: number = 0 }) => [name, { worker, placement: number, reason: '' }] as const,
  );
  const ports = [...nics.values()].map(({ name, worker = 0 }) => [name, worker] as const);
  return {
    ...placement,
    volumes: new Map([...placement.volumes, ...open]),
    nics: new Map([...placement.nics, ...ports]),
  };
}

/** How many layers the volume is to have above those that are open; -1: others are open. */
export function depthOf({ layers }: Volume, open: VolumeRow): number {
  if (layers.length <= 1 && open.content === undefined) {
    return (layers[0]?.path ?? null) === open.path ? 0 : -1; // it has no file, or is open in an earlier version
  }
  return layers.findIndex(({ content }) => content === open.content);
}

/** An engine of an earlier version does not say what it has. */
function sameChain({ layers }: Volume, { layers: open }: VolumeRow): boolean {
  return (
    open === undefined ||
    (open.length === layers.length && open.every(({ path }, index) => path === layers[index]?.path))
  );
}

function isSameVolume(wanted: Volume, open: VolumeRow): boolean {
  return (
    wanted.kind === open.kind &&
    depthOf(wanted, open) >= 0 &&
    wanted.readOnly === open.readOnly &&
    (wanted.fault !== null || !open.flushFailed) && // what nobody minds any more is opened anew
    (wanted.kind === 'file' || (wanted.size === open.size && wanted.blockSize === open.blockSize))
  );
}

function sameExport(a: ExportRow | undefined, b: ExportRow): boolean {
  return (
    a !== undefined &&
    a.generation === b.generation &&
    a.host === b.host &&
    a.volume === b.volume &&
    a.readOnly === b.readOnly
  );
}

/** Nobody waits for it. */
export const isInBackground = (step: IohvStep) => step.do === 'layer.merge';

function sameDevices(told: DeviceEntry[] | undefined, devices: DeviceEntry[]): boolean {
  return told !== undefined && JSON.stringify(told) === JSON.stringify(devices);
}
