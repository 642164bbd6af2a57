// What a supervisor and its engine say to each other: newline-delimited JSON over the engine's unix socket.
//   request  {"id": 7, "cmd": "volume.open", "args": {...}}
//   answer   {"id": 7, "ok": true, "result": {...}}  or  {"id": 7, "ok": false, "error": {"code", "message"}}
//   event    {"event": "host.up", "data": {...}}      to every client that is connected
// A supervisor begins with `claim`; others (tests, tools) may ask without.
// Both ends import these types, so that a command has one definition.
import type { Nested } from '../telemetry/metrics.js';

/** AF_PACKET or AF_XDP. */
export type PortMode = 'packet' | 'xdp';

export interface PortSettings {
  /** One or two. */
  interfaces: string[];
  /** Default: packet. */
  mode?: PortMode;
  /** Bytes; 0: the links'. */
  mtu: number;
  ethertype: number;
  /** Left out by a supervisor of an earlier version: `auto`. */
  superFrames?: SuperFrames;
}

export type SuperFrames = 'auto' | 'on' | 'off';

export interface WorkerSettings {
  cpu: number | null;
  nice: number;
  spinUs: number;
}

export type Integrity = 'encrypt' | 'mac' | 'crc';

/** What an engine is activated with. It holds keys, so it travels over the engine's socket only. */
export type EngineConfig = { port: PortSettings; worker: WorkerSettings } & (
  | {
      role: 'iohv';
      iohv: {
        integrity: Integrity;
        slots: number;
        fifo?: boolean;
        /** Of all workers together. */
        bufferBytes: number;
        /** Left out: there is none. */
        cache?: CacheSettings;
        /** Of each of several workers, its CPU; left out: there is one, on worker.cpu. */
        workerCpus?: (number | null)[];
      };
    }
  | {
      role: 'host';
      host: { name: string; keyBase64: string; serverMacs: string[]; integrityMin: Integrity };
    }
);

export type Role = EngineConfig['role'];

/**
 *   standby ── activate ──> active ── drain ──> drained ── stop ──> stopped (the process ends)
 *
 * A standby has loaded everything and holds nothing: no volume, no device, no port unless it was prepared. A
 * drained engine does no more work, and is of no more use.
 */
export type EngineState = 'standby' | 'active' | 'drained' | 'stopped';

export interface PingResult {
  state: EngineState;
  pid: number;
  version: string;
  /** Which code it runs: see engine/identity.ts. */
  build: string;
  /** ms since the epoch: of the process, and of its activation. */
  startedAt: number;
  activeSince: number | null;
  /** A digest of what it was prepared or activated with; null before. */
  settings: string | null;
  /** How many workers it has, once it was prepared; left out by an engine of an earlier version, which has one. */
  workers?: number;
  mac: string | null;
  mtu: number | null;
}

export type VolumeKind = 'file' | 'ram' | 'null';

/** A file of a volume: what one does not hold is in the next one. */
export interface LayerArgs {
  path: string;
  /** Names what the file holds, for ever: 16 hexadecimal digits, never 0 and never used twice. */
  content: string;
  /** No overlay, but the content itself, from the first byte to the last: the last layer only. */
  raw?: boolean;
  /** What the file's header says of its content, when it was another layer's into which this one was merged. */
  header?: string;
}

/** What a layer of an open volume holds, in clusters of 4 KiB. A raw one holds everything: both are 0. */
export interface LayerRow extends LayerArgs {
  clusters: number;
  zeroes: number;
}

export const CACHE_MODES = ['none', 'write-through', 'write-back'] as const;
export type CacheMode = (typeof CACHE_MODES)[number];
export const CACHE_POLICIES = ['s3fifo', 'arc', 'lru'] as const;
export type CachePolicy = (typeof CACHE_POLICIES)[number];

/** Of each worker: OR_CACHE_BYTES_MIN of native/cache/cache.h. */
export const CACHE_BYTES_MIN = 1 << 20;

/** The block cache: see native/cache/cache.h. */
export interface CacheSettings {
  /** Of all workers together, in equal parts: what it begins with. */
  bytes: number;
  policy: CachePolicy;
}

/** How a volume uses the block cache. */
export interface VolumeCache {
  mode: CacheMode;
  /** A part of its own, no more and no less; 0: it shares. */
  quotaBytes: number;
  /** Write-back: how much may wait to be written out; 0: a quarter of the budget. */
  dirtyBytes: number;
  /** Write-back: and for how long; 0: 5 s. */
  dirtyAgeMs: number;
  /** Of what follows a sequential read, how much is read ahead at most; 0: nothing. */
  readAheadBytes: number;
}

/** The cache of a worker. */
export interface CacheInfo {
  /** The budget in force, and the one asked for: it shrinks as blocks come free. */
  bytes: number;
  bytesTarget: number;
  /** Blocks of 4 KiB: in use, and how many the budget in force holds. */
  blocks: number;
  blocksMax: number;
  /** Of the budget: what is not content of blocks. */
  metadataBytes: number;
  volumes: number;
  /** Of the memory of blocks: in huge pages, of the hugetlb pool or made so. */
  hugeBytes: number;
}

/** struct or_cache_stats: counters since the worker has the volume; blocks, dirty and pinned are of now, in blocks. */
export interface CacheStats {
  hits: number;
  misses: number;
  sharedHits: number;
  evictions: number;
  bypassed: number;
  fetches: number;
  fetched: number;
  ahead: number;
  aheadUsed: number;
  aheadWasted: number;
  writtenOut: number;
  writeOuts: number;
  writeErrors: number;
  throttled: number;
  blocks: number;
  dirty: number;
  pinned: number;
}

export interface CachedVolumeRow {
  name: string;
  worker: number;
  mode: CacheMode;
  stats: CacheStats;
}

/** What a back-end found out about an open volume. */
export interface Geometry {
  size: number;
  blockSize: number;
  physicalBlockSize: number;
  direct: boolean;
  discard: boolean;
  writeZeroes: boolean;
}

/** A protection domain: docs/intercept.md. Generations and epochs are small enough for a number. */
export interface DomainArgs {
  /** Of the supervisor, never used twice. */
  id: number;
  name: string;
  /** That it may hold. */
  bytes: number;
  /** Path of a file that journal.create made. */
  journal: string;
  /** 16 hexadecimal digits, not 0: of a journal that is new. */
  journalId: string;
  /** Path of the low-latency socket; empty: none. */
  socket: string;
  overflow: DomainOverflow;
  /** 0: no limit. */
  commitTimeoutMs: number;
  worker: number;
}

/** A domain, at the worker that has it. */
export interface DomainRow extends DomainStatus {
  worker: number;
  overflow: DomainOverflow;
  commitTimeoutMs: number;
}

/** How a volume is in a domain. */
export interface VolumeDomain {
  id: number;
  /** Of the volume in the domain, durable: 16 hexadecimal digits, not 0. */
  volumeId: string;
}

export interface VolumeRow extends Geometry {
  name: string;
  /** Left out: it is in none. */
  domain?: VolumeDomain;
  /** Which serves it. Left out by an engine of an earlier version: 0. */
  worker?: number;
  /** A number that changes with every move: requests that were sent under another one are not executed. Likewise. */
  placement?: number;
  kind: VolumeKind;
  /** Of a volume of several layers, the head's. */
  path: string | null;
  /** Of the file that is written to: the head, or the only one. Left out of ram, null and by an earlier version. */
  content?: string;
  /** Its files, head first. Left out of ram and null, and by an earlier version. */
  layers?: LayerArgs[];
  /** Left out of ram and null, by an engine without a cache, and by an earlier version. */
  cache?: VolumeCache;
  readOnly: boolean;
  /** Acknowledged data may be lost: no flush succeeds until the volume is closed. */
  flushFailed: boolean;
  /** Storage errors since it was opened. */
  errors: number;
  lastError: VolumeError | null;
}

/** The latest of `count` storage errors. */
export interface VolumeError {
  volume: string;
  op: string;
  /** Name of the errno. */
  error: string;
  /** Bytes from the start of the volume. */
  offset: number;
  count: number;
  flushFailed: boolean;
}

/** Of a disk's share of the I/O hypervisor beside others, 1 to WEIGHT_MAX: see native/transport/schedule.h. */
export const WEIGHT_DEFAULT = 100;
export const WEIGHT_MAX = 1000;

export interface ExportArgs {
  id: number;
  generation: number;
  volume: string;
  readOnly: boolean;
  /** Left out by a supervisor of an earlier version, and unknown to such an engine: WEIGHT_DEFAULT. */
  weight?: number;
  /** The volume cannot be opened yet: requests wait until the export is added again, without this. */
  pending: boolean;
  /** Where requests wait while it is pending; else it is with its volume, and has its placement. Left out: 0. */
  worker?: number;
  placement?: number;
  /** Of a volume in a domain: with which it may be written and read. Left out: not in a domain. */
  domainGeneration?: number;
  /** Of a copy of a VM that may take over: requests wait, although the volume is open. */
  standby?: boolean;
}

export interface ExportRow extends ExportArgs {
  host: string;
}

/** One link of a session: see links.h. */
export interface LinkRow {
  up: boolean;
  srttUs: number;
  cwndFrames: number;
  inFlightFrames: number;
  framesLost: number;
  /** enum or_link_form. */
  form: number;
}

export interface HostRow {
  name: string;
  keyId: string | null;
  up: boolean;
  mac: string | null;
  since: number | null;
  srttUs: number;
  requests: number;
  inFlight: number;
  /** Of its session, bytes; 0 without one. */
  mtu: number;
  links: LinkRow[];
  /** Whether it has a session with each of several workers. */
  workers?: boolean[];
  /** The last report document of this host. */
  report: string | null;
}

/** A token bucket: see native/mem/bucket.h. A rate of 0: no limit; a burst of 0: a tenth of a second's worth. */
export interface Limit {
  bytesPerS: number;
  bytesBurst: number;
  /** Requests of a disk, packets of a NIC. */
  opsPerS: number;
  opsBurst: number;
}

export type NicKind = 'tap' | 'macvtap' | 'hub';

/** What a guest wants to receive, beside its own address and broadcasts. */
export interface RxFilter {
  promiscuous: boolean;
  allMulticast: boolean;
  /** Unicast and multicast. */
  macs: string[];
}

export interface NicArgs {
  /** Of the attachment, like its generation. */
  id: number;
  generation: number;
  name: string;
  kind: NicKind;
  /** The tap or macvtap; null for a hub. */
  interface: string | null;
  hub: string | null;
  /** Which serves it, the same for all of a hub. Left out: 0. */
  worker?: number;
  mac: string;
  mtu: number;
  /** `10.0.0.5`, `2001:db8::/64`: what the guest may send from; none: any. */
  addresses: string[];
  spoofCheck: boolean;
  /** Towards the guest. */
  limit: Limit;
  linkUp: boolean;
  /** What the guest sends is held by this domain. Left out or null: by none. */
  domain?: NicDomain | null;
}

export interface NicDomain {
  id: number;
  generation: number;
}

/** What the host reports of the guest behind a NIC. */
export interface GuestNic {
  /** The virtio features that the guest negotiated, hexadecimal since they have 64 bits; `0x0` while none runs. */
  features: string;
  /** null: its own address, broadcasts and every multicast. */
  filter: RxFilter | null;
}

/** What can be changed while a NIC is open; addresses and spoofCheck together. */
export type NicChange = Partial<GuestNic & Pick<NicArgs, 'limit' | 'linkUp' | 'addresses' | 'spoofCheck' | 'domain'>>;

/** A NIC that is open: its features are 0x0 and its filter is null until nic.set says otherwise. */
export interface NicPort extends NicArgs, GuestNic {
  host: string;
  /** Its interface was removed behind the engine's back. */
  gone: boolean;
}

export interface NicRow extends NicPort {
  stats: Nested;
}

interface DeviceBase {
  id: number;
  generation: number;
  socket: string;
  /** Of the I/O hypervisor: which serves it, and since which move. */
  worker: number;
  placement: number;
  /** Of a NIC: pairs. */
  queues: number;
  /** Of what the guest sends or asks for. */
  limit: Limit;
}

export interface DiskArgs extends DeviceBase {
  kind: 'disk';
  size: number;
  blockSize: number;
  physicalBlockSize: number;
  readOnly: boolean;
  discard: boolean;
  writeZeroes: boolean;
  /** After which its requests end with an error; 0: never. */
  ioTimeoutMs: number;
  serial: string;
}

export interface NetArgs extends DeviceBase {
  kind: 'net';
  mac: string;
  mtu: number;
  linkUp: boolean;
}

export type DeviceArgs = DiskArgs | NetArgs;

/** What can be changed under a guest; ioTimeoutMs of disks, linkUp of NICs. */
export interface DeviceChange {
  id: number;
  /** Both or none. */
  worker?: number;
  placement?: number;
  ioTimeoutMs?: number;
  limit?: Limit;
  linkUp?: boolean;
}

export type DeviceState = 'listening' | 'connected' | 'running' | 'broken';

export type DeviceRow = DeviceArgs & {
  state: DeviceState;
  reason: string;
  /** Of a NIC: as in GuestNic. */
  features?: string;
  stats: Nested;
};

/** What has passed through an attachment since it is there, at one worker. */
export interface ExportLoad {
  id: number;
  worker: number;
  requests: number;
  bytes: number;
  inFlight: number;
}

/** A session of a host with a worker of the I/O hypervisor. */
export interface WorkerSession {
  worker: number;
  up: boolean;
  inFlight: number;
}

type Nothing = Record<string, never>;

interface Command<Args, Result> {
  args: Args;
  result: Result;
}

export interface EngineCommands {
  ping: Command<Nothing, PingResult>;
  /** From now on the engine is this connection's alone: see engine/listener.ts. */
  claim: Command<Nothing, PingResult>;
  /** Opens the ports, so that `activate` with the same settings is quick; still a standby, which hears frames. */
  prepare: Command<{ config: EngineConfig }, PingResult>;
  /** Starts the C core. When it fails, the engine is a standby as before. */
  activate: Command<{ config: EngineConfig }, PingResult>;
  stats: Command<Nothing, Nested>;
  /** Takes no more requests and waits at most `ms` for those under way; only `stop` makes sense after it. */
  drain: Command<{ ms: number }, { inFlight: number }>;
  /** Answered when the core has ended and holds nothing any more; then the process ends. */
  stop: Command<Nothing, Nothing>;
  // I/O hypervisor
  /** Admits a host with its disks and NICs; answers which NICs could be opened, for the others do not hold it up. */
  'host.add': Command<
    { name: string; keyBase64: string; keyId: string; exports: ExportArgs[]; nics?: NicArgs[] },
    { openNics?: number[] }
  >;
  'host.remove': Command<{ name: string }, Nothing>;
  'volume.open': Command<
    {
      name: string;
      kind: VolumeKind;
      /** Of a volume of several layers, the head's; so is its content. */
      path?: string;
      content?: string;
      /** Head first. Left out: there is the file `path`, raw. */
      layers?: LayerArgs[];
      /** Of no effect on ram, null, and where there is no cache. */
      cache?: VolumeCache;
      size?: number;
      blockSize?: number;
      readOnly: boolean;
      /** It failed in an earlier opening, and nobody has looked at its data since. */
      flushFailed: boolean;
      /** Left out: 0. */
      worker?: number;
      placement?: number;
      /** It is open in this domain before anything can export it. */
      domain?: VolumeDomain;
    },
    Geometry
  >;
  'volume.close': Command<{ name: string }, Nothing>;
  /** Hands an open volume to another worker, with its exports; nothing is lost or executed twice, whoever uses it. */
  'volume.move': Command<{ name: string; to: number }, { ms: number; placement: number }>;
  'volume.list': Command<Nothing, VolumeRow[]>;
  /**
   * An empty overlay in a new file, durably. One that is there already and is the same will do. `continues`: what its
   * volume has written to so far, when it is made for a cut.
   */
  'layer.create': Command<{ path: string; sizeBytes: number; content: string; continues?: string }, Nothing>;
  /**
   * Seals the head of an open volume at a moment between two requests, with everything that was answered before, and
   * puts an empty one on top, which `layer.create` made. When it fails, nothing has changed.
   */
  'volume.cut': Command<{ name: string; path: string; content: string }, Nothing>;
  /** What is below the head of an open volume becomes these, which hold the same. */
  'volume.rebase': Command<{ name: string; layers: LayerArgs[] }, Nothing>;
  /**
   * A part of a merge: what `from`, a sealed overlay, holds from cluster `next` on, about so many bytes of it, is put
   * into `into`, which is below it, also while volumes read both. `next` of the result: all before is there, durably.
   */
  'layer.merge': Command<
    { from: LayerArgs; into: LayerArgs; next: number; bytes: number },
    { next: number; copied: number; complete: boolean }
  >;
  /** Head first. */
  'volume.layers': Command<{ name: string }, LayerRow[]>;
  /** Everything that was answered before is in the volume's files. */
  'volume.flush': Command<{ name: string }, Nothing>;
  /** Live. `drop`: forgets the clean blocks of its own content; what a clone shares with others stays. */
  'volume.cache': Command<{ name: string; drop?: boolean } & Partial<VolumeCache>, Nothing>;
  /** The budget of all workers together: grows at once, shrinks as blocks come free. EINVAL without a cache. */
  'cache.set': Command<{ bytes: number }, Nothing>;
  /** bytes: as last asked for; 0: there is no cache, and no workers and volumes then. */
  'cache.list': Command<Nothing, { bytes: number; workers: CacheInfo[]; volumes: CachedVolumeRow[] }>;
  /** A zeroed file of this size, durably; one that is there already is left as it is. */
  'journal.create': Command<{ path: string; bytes: number }, Nothing>;
  /** Ends when its journal has been read; what a predecessor of the engine held is taken up. */
  'domain.open': Command<DomainArgs, DomainRow>;
  'domain.set': Command<{ id: number } & Partial<Pick<DomainArgs, 'overflow' | 'commitTimeoutMs'>>, Nothing>;
  /** Closes its volumes too. forget: drops what it holds, and held when it is not open. */
  'domain.close': Command<{ id: number; forget: boolean }, Nothing>;
  /** unprotected: protection was dropped since the cut before. An engine of an earlier build leaves it out. */
  'domain.cut': Command<{ id: number; generation: number }, { epoch: number; unprotected?: boolean }>;
  /** unprotected: since the last cut. */
  'domain.commit': Command<
    { id: number; generation: number; epoch: number },
    { committed: number; unprotected?: boolean }
  >;
  /** Nothing of an older generation has any effect once this has ended. */
  'domain.fence': Command<{ id: number; generation: number }, { committed: number }>;
  /** The same for a domain whose state is `rewind`. */
  'domain.reset': Command<{ id: number; generation: number }, { committed: number }>;
  /** Drops all that is not committed. EBUSY unless the last thing that happened to it is a fence. */
  'domain.abort': Command<{ id: number }, Nothing>;
  'domain.list': Command<Nothing, DomainRow[]>;
  /**
   * Takes an open volume into a domain, or out of the one that it is in (null), also under load. generation: of its
   * present exports. Out of a domain: that commits and applies what it holds before.
   */
  'volume.protect': Command<{ name: string; domain: VolumeDomain | null; generation: number }, Nothing>;
  'export.add': Command<ExportRow, Nothing>;
  /** At once, also under load. */
  'export.set': Command<{ id: number; weight: number }, Nothing>;
  'export.remove': Command<{ id: number }, Nothing>;
  'export.list': Command<Nothing, ExportRow[]>;
  loads: Command<Nothing, { exports: ExportLoad[] }>;
  /** The counters of each worker. */
  workers: Command<Nothing, Nested[]>;
  'document.set': Command<{ host: string; document: string }, Nothing>;
  'nic.open': Command<NicArgs & { host: string }, Nothing>;
  'nic.set': Command<{ id: number } & NicChange, Nothing>;
  'nic.close': Command<{ id: number }, Nothing>;
  'nic.list': Command<Nothing, NicRow[]>;
  hosts: Command<Nothing, HostRow[]>;
  // both
  /**
   * Connects to the supervisor's descriptor store. A host agent's answers with the devices that device.add will restore.
   * An I/O hypervisor's leaves its cache there: what a dead engine had not written out, volume.open takes over.
   */
  keep: Command<{ path: string }, { devices: number[] }>;
  /** What dead engines had not written out and no volume has taken over is nobody's; `bytes` of it could be read. */
  'keep.give-up': Command<Nothing, { bytes: number }>;
  /** Likewise, but only of this content. */
  'keep.forget': Command<{ content: string }, { bytes: number }>;
  'device.add': Command<DeviceArgs, { restored: boolean; reason?: string }>;
  'device.set': Command<DeviceChange, Nothing>;
  'device.remove': Command<{ id: number }, Nothing>;
  devices: Command<Nothing, DeviceRow[]>;
  session: Command<
    Nothing,
    { up: boolean; reason: string; document: string | null; links: LinkRow[]; workers?: WorkerSession[] }
  >;
  'report.put': Command<{ document: string }, Nothing>;
}

export type CommandName = keyof EngineCommands;

/** What happens when a domain holds all that it may, or hears of no commit in its time: see native/include/outrigger.h. */
export const DOMAIN_OVERFLOWS = ['push-back', 'unprotect'] as const;
export type DomainOverflow = (typeof DOMAIN_OVERFLOWS)[number];

export type DomainState = 'opening' | 'running' | 'rewind' | 'unusable';

/** How often something was done, and how long it took. */
export interface Timing {
  count: number;
  totalNs: number;
  maxNs: number;
}

/** A protection domain at a worker. Epochs and generations are counts; see docs/intercept.md. */
export interface DomainStatus {
  id: number;
  name: string;
  state: DomainState;
  generation: number;
  /** Epochs: the open one, and the last that is committed and applied. */
  open: number;
  committed: number;
  applied: number;
  /** Held. */
  bytes: number;
  bytesMax: number;
  /** Operations that wait for room. */
  waiting: number;
  /** Taken; dropped because of their generation; committed but of a NIC that was closed meanwhile. */
  packets: number;
  packetsFenced: number;
  packetsLost: number;
  /** Operations that were refused because of their generation. */
  writesFenced: number;
  cuts: number;
  commits: number;
  /** Times that it held all that it may. */
  overflows: number;
  /** It commits by itself, as its policy says, until the next cut. */
  unprotected: boolean;
  /** To its socket, and what made no sense there. */
  connections: number;
  recordsBad: number;
  times: { cut: Timing; sync: Timing; release: Timing; apply: Timing };
}

/** Refused frames of the last second: how many, why most of them, and where the last came from ('': unknown). */
export interface Intrusion {
  count: number;
  reason: string;
  source: string;
}

export type EngineEvent =
  /** Another supervisor claimed the engine; the last word on this connection. */
  | { event: 'superseded'; data: Nothing }
  | { event: 'host.up'; data: { host: string } }
  | { event: 'host.down'; data: { host: string; reason: string } }
  | { event: 'host.report'; data: { host: string; document: string } }
  /** At most one per volume and second. */
  | { event: 'volume.error'; data: VolumeError }
  /** Acknowledged writes that no flush covered are lost: the storage refused them until the volume was closed. */
  | { event: 'volume.lost'; data: { volume: string; bytes: number } }
  /** Nobody knows which volumes have writes in the memory of a dead engine's cache: none in a file is opened. */
  | { event: 'cache.unreadable'; data: { reason: string } }
  /** Also when the supervisor that asked for it is gone. */
  | { event: 'volume.moved'; data: { volume: string; to: number; placement: number } }
  | { event: 'session.up'; data: Nothing }
  | { event: 'session.down'; data: { reason: string } }
  | { event: 'document'; data: { document: string } }
  | { event: 'segment.intrusion'; data: Intrusion }
  | { event: 'device.state'; data: { id: number; state: DeviceState; reason: string; features?: string } }
  /** A commit is wanted: the domain holds all that it may, or there was none for too long. Or it goes on without. */
  | { event: 'domain.overflow' | 'domain.timeout' | 'domain.unprotected'; data: { id: number; name: string } }
  /** An epoch could not be written; nothing can be committed any more; a volume cannot be written. */
  | { event: 'domain.trouble'; data: { id: number; name: string; what: 'journal' | 'condemned' | 'apply' } }
  /** It was opened, and what it held beyond the last commit is lost. */
  | { event: 'domain.rewind'; data: { id: number; name: string } }
  /** At most one per domain and second. */
  | { event: 'domain.epochs'; data: { id: number; name: string; open: number; committed: number } }
  | { event: 'link.up' | 'link.down'; data: { host?: string; link: number; interface: string } }
  | { event: 'port.up' | 'port.down'; data: { interface: string } };
