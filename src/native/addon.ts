// The typed face of the native addon (native/addon/): what the engine process may ask of the C core.
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type {
  CachedVolumeRow,
  CacheInfo,
  CacheSettings,
  DeviceArgs,
  DeviceChange,
  DeviceState,
  DomainOverflow,
  DomainStatus,
  EngineCommands,
  EngineEvent,
  ExportLoad,
  ExportRow,
  Geometry,
  HostRow,
  LayerRow,
  NicArgs,
  NicChange,
  PortMode,
  SuperFrames,
} from '../supervisor/protocol.js';
import type { Nested } from '../telemetry/metrics.js';

/** enum or_integrity of native/wire/wire.h. */
export const INTEGRITY = { crc: 1, mac: 2, encrypt: 3 } as const;

interface WorkerConfig {
  /** Of the I/O hypervisor's: its number, which frames for it bear as their channel. A host's: 0. */
  worker: number;
  /** One or two. */
  interfaces: string[];
  /** Default: packet. */
  portMode?: PortMode;
  /** Bytes; 0: the link's. */
  mtu: number;
  ethertype: number;
  superFrames: SuperFrames;
  /** -1: not pinned. */
  cpu: number;
  nice: number;
  spinUs: number;
}

export type NativeConfig = WorkerConfig &
  (
    | {
        role: 'iohv';
        integrity: number;
        slots: number;
        bufferBytes: number;
        fifo: boolean;
        /** This worker's. Left out: it has none. */
        cache?: CacheSettings;
      }
    | { role: 'host'; name: string; key: Buffer; serverMacs: Buffer[]; integrityMin: number }
  );

type Nothing = Record<string, never>;

type StateEvent = Extract<EngineEvent, { event: 'device.state' }>;
/** As EngineEvent, but for the features of a device. */
export type NativeEvent =
  | Exclude<EngineEvent, StateEvent>
  | { event: 'device.state'; data: Omit<StateEvent['data'], 'features'> & { features?: bigint } };

interface NativeExport {
  weight: number;
  elsewhere?: boolean;
  /** Of a volume in a domain. Added again with another one, the attachment has that from then on. */
  domainGeneration?: number;
  /** Requests wait, though the volume may be open. */
  standby?: boolean;
}

/** null: of none. The domain is with the same worker. */
interface NativeNicDomain {
  domain?: { id: number; generation: number } | null;
}

interface NativePolicy {
  overflow?: DomainOverflow;
  /** 0: none. */
  commitTimeoutMs?: number;
}

/** Commands as the addon takes them; each ends when the worker thread has carried it out. */
export interface NativeCommands {
  stats: { args: Nothing; result: Nested };
  'host.add': { args: { name: string; key: Buffer }; result: undefined };
  'host.admit': { args: { name: string }; result: undefined };
  'host.remove': { args: { name: string }; result: undefined };
  hosts: { args: Nothing; result: Omit<HostRow, 'keyId' | 'since' | 'report'>[] };
  'volume.open': {
    args:
      | (Omit<EngineCommands['volume.open']['args'], 'worker' | 'placement' | 'domain'> & { lockTimeoutMs: number })
      /** Takes the volume over that another engine of this process gave. */
      | { name: string; passed: true };
    result: Geometry;
  };
  /** The file is opened, and its lock waited for, on a thread of the pool. */
  'volume.cut': { args: EngineCommands['volume.cut']['args'] & { lockTimeoutMs: number }; result: undefined };
  /** Likewise the files. */
  'volume.rebase': { args: EngineCommands['volume.rebase']['args'] & { lockTimeoutMs: number }; result: undefined };
  'layer.merge': {
    args: EngineCommands['layer.merge']['args'] & { lockTimeoutMs: number };
    result: EngineCommands['layer.merge']['result'];
  };
  'volume.layers': { args: { name: string }; result: Omit<LayerRow, 'path'>[] };
  'volume.flush': { args: { name: string }; result: undefined };
  /** On a thread of the pool. */
  'layer.create': { args: EngineCommands['layer.create']['args']; result: undefined };
  /** Lets another engine of this process have it as it is. No export of it may be left that is not elsewhere. */
  'volume.give': { args: { name: string }; result: undefined };
  'volume.close': { args: { name: string }; result: undefined };
  'volume.cache': { args: EngineCommands['volume.cache']['args']; result: undefined };
  /** This worker's budget. */
  'cache.set': { args: { bytes: number }; result: undefined };
  'cache.list': { args: Nothing; result: { info: CacheInfo; volumes: Omit<CachedVolumeRow, 'worker'>[] } };
  /** elsewhere: another worker executes its requests; here they are answered with that. Of one that is here, it ends
   * when what executes has ended. */
  'export.add': { args: Omit<ExportRow, 'worker'> & NativeExport; result: undefined };
  'export.set': { args: { id: number; weight: number }; result: undefined };
  'export.remove': { args: { id: number }; result: undefined };
  loads: { args: Nothing; result: { exports: Omit<ExportLoad, 'worker'>[] } };
  'document.set': { args: { host: string; document: string }; result: undefined };
  /** `restored`: the device goes on with the connection that a predecessor left in the store; `reason`: there
   * was something in the store, but it cannot. */
  'device.add': { args: DeviceArgs; result: { restored: boolean; reason?: string } };
  'device.set': { args: DeviceChange; result: undefined };
  'device.remove': { args: { id: number }; result: undefined };
  devices: { args: Nothing; result: { id: number; state: DeviceState; features?: bigint; stats: Nested }[] };
  /** Its interface is opened on a thread of the pool. */
  'nic.open': { args: NicArgs & { host: string } & NativeNicDomain; result: undefined };
  'nic.set': { args: { id: number } & NicChange & NativeNicDomain; result: undefined };
  'nic.close': { args: { id: number }; result: undefined };
  'nic.list': { args: Nothing; result: { id: number; gone: boolean; stats: Nested }[] };
  /** On a thread of the pool. A journal of this size that is there stays as it is. */
  'journal.create': { args: { path: string; bytes: number }; result: undefined };
  /** Its journal is opened, and its lock waited for, on a thread of the pool. `socket` '' or left out: none. */
  'domain.open': {
    args: {
      id: number;
      name: string;
      bytes: number;
      journal: string;
      /** 16 hexadecimal digits. */
      journalId: string;
      socket?: string;
      lockTimeoutMs: number;
    } & NativePolicy;
    result: DomainStatus;
  };
  'domain.set': { args: { id: number } & NativePolicy; result: undefined };
  /** With its volumes, none of which may be exported. `forget`: also drops what it holds, and held when it
   * is not open. */
  'domain.close': { args: { id: number; forget?: boolean }; result: undefined };
  'domain.cut': { args: EngineCommands['domain.cut']['args']; result: EngineCommands['domain.cut']['result'] };
  'domain.commit': { args: EngineCommands['domain.commit']['args']; result: EngineCommands['domain.commit']['result'] };
  'domain.fence': { args: { id: number; generation: number }; result: { committed: number } };
  'domain.reset': { args: { id: number; generation: number }; result: { committed: number } };
  'domain.abort': { args: { id: number }; result: undefined };
  'domain.list': { args: Nothing; result: DomainStatus[] };
  /** `volumeId`: 16 hexadecimal digits. null: ends when the domain has committed and applied what it holds. */
  'volume.protect': {
    args:
      | { name: string; domain: { id: number; volumeId: string }; generation: number }
      | { name: string; domain: null };
    result: undefined;
  };
  'report.put': { args: { document: string }; result: undefined };
  /** Connects to the DescriptorStore at `path`, which from then on holds a duplicate of every device's
   * descriptors; ends when what it had has arrived. Devices of `devices` are restored by device.add. */
  keep: { args: { path: string }; result: { devices: number[] } };
  'keep.give-up': { args: { content?: string }; result: EngineCommands['keep.give-up']['result'] };
  /** Takes no more requests and waits at most `ms` for those under way; then only `stop` makes sense. */
  drain: { args: { ms: number }; result: { inFlight: number } };
}

/** A worker thread, and the ports that it uses. Errors carry `code`, an errno name. */
export interface NativeEngine {
  submit<C extends keyof NativeCommands>(
    command: C,
    args: NativeCommands[C]['args'],
  ): Promise<NativeCommands[C]['result']>;
  port(): { mac: string; mtu: number };
  /** Starts the worker of an engine that was made paused. Throws as the constructor does. */
  begin(): void;
  /** Blocks until the worker has ended and let everything go but its ports; idempotent. */
  halt(): void;
  /** Halts and closes the ports, which takes some tens of milliseconds; idempotent. */
  stop(): void;
}

/**
 * Holds duplicates of the descriptors of an engine's devices, and hands them to the next engine that
 * connects (command `keep`). One engine at a time: a new connection takes the place of the old one.
 */
export interface NativeDescriptorStore {
  /** Ids of the devices that are held. */
  devices(): number[];
  /** Closes the socket and every descriptor: what no engine holds any more ends for QEMU. Idempotent. */
  close(): void;
}

export interface Addon {
  /**
   * Throws with a sentence for the operator when the ports cannot be opened. `paused`: they are opened and
   * nothing runs before begin().
   */
  Engine: new (
    config: NativeConfig & { paused?: boolean },
    onEvent: (event: NativeEvent) => void,
  ) => NativeEngine;
  /** Listens on a unix socket (mode 0600) at `path`, in place of a dead one. `onChange`: a device came or went. */
  DescriptorStore: new (
    path: string,
    onChange?: (devices: number[]) => void,
  ) => NativeDescriptorStore;
}

export const ADDON_FILE = fileURLToPath(new URL('../../../build/Release/outrigger.node', import.meta.url));

export function loadAddon(): Addon {
  return createRequire(import.meta.url)(ADDON_FILE) as Addon;
}
