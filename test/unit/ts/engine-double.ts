// Stands in for the engine in tests of the supervisors: the same start (`--socket PATH`), the same protocol
// over a real unix socket, state in memory, no I/O. The real engine is tested in test/integration.
//
// The tests steer it through names, files beside its socket and four commands of its own:
//  - a volume or NIC whose name starts with `bad` cannot be opened; a volume that starts with `slow` opens after 300 ms;
//  - the blocks of a volume whose name starts with `coarse` have 4096 bytes;
//  - a volume whose name starts with `uncut` cannot be cut, one that starts with `flushing` takes 300 ms for it; a file
//    `fatal-cut` lets it die while it does;
//  - {"cmd": "test.write", "args": {"name": "d1"}}: a guest wrote to the head of the volume;
//  - {"cmd": "test.emit", "args": EVENT} sends an event to every client;
//  - {"cmd": "test.gone", "args": {"id": 7}}: somebody removed the interface of the NIC;
//  - {"cmd": "test.load", "args": {"id": 7, "requests": 9, "bytes": 4096}}: so much more passed through an export;
//  - {"cmd": "test.log"} answers all commands so far, in order;
//  - an interface named `none` in the configuration makes it refuse to be activated;
//  - a file `without-nics` makes it one of a build that knew none, a file `without-cache` likewise;
//  - a file `unkept` makes it refuse to `keep`, a file `unread` to open volumes in files until it has given up what it
//    was left;
//  - a file `uncacheable` makes it refuse to change how volumes use its cache;
//  - a file `build` holds the build that it says it is, a file `unfit` lets it end at its start;
//  - a file `full` makes it refuse to make a layer, a file `undrained` to drain, a file `unusable` to be activated, a file
//    `unmovable` to move volumes, and a file `fatal-move` lets it die while it does;
//  - a file `slow-drain` makes it take 300 ms to drain, a file `slow-stop` as many as it says to stop.
// What `keep` leaves for the next engine are ids in the file PATH.ids.
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { buildOf, settingsOf } from '../../../src/engine/identity.js';
import { Listener } from '../../../src/engine/listener.js';
import type {
  CacheStats,
  DeviceArgs,
  DeviceChange,
  DomainArgs,
  EngineCommands,
  EngineConfig,
  EngineEvent,
  EngineState,
  ExportArgs,
  ExportLoad,
  ExportRow,
  Geometry,
  HostRow,
  LayerArgs,
  LayerRow,
  NicArgs,
  NicChange,
  NicPort,
  PingResult,
  VolumeCache,
  VolumeRow,
} from '../../../src/supervisor/protocol.js';
import type { Nested } from '../../../src/telemetry/metrics.js';
import { DomainDouble } from './domain-double.js';

type Args = Record<string, unknown>;

class Refusal extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

const socketPath = process.argv[3] ?? '';
const beside = (name: string) => `${dirname(socketPath)}/${name}`;
if (existsSync(beside('unfit'))) {
  process.stderr.write('unfit for service\n');
  process.exit(1);
}

const startedAt = Date.now();
const build = existsSync(beside('build')) ? readFileSync(beside('build'), 'utf8') : buildOf(process.argv[1] ?? '');
let state: EngineState = 'standby';
let settings: string | null = null;
let activeSince: number | null = null;
let idsFile: string | undefined;
let left: number[] = [];
const log: { cmd: string; args: Args }[] = [];
const hosts = new Map<string, HostRow>();
const volumes = new Map<string, VolumeRow>();
/** Of open volumes, head first. */
const layers = new Map<string, LayerRow[]>();
/** Names of volumes of which a block is in the cache alone. */
const unflushed = new Set<string>();
const exports = new Map<number, ExportRow>();
const nics = new Map<number, NicPort>();
const devices = new Map<number, DeviceArgs>();
const dropped = new Set<string>();
const domains = new DomainDouble(beside, (code, message) => new Refusal(code, message));
const loads = new Map<number, ExportLoad>();
let workers = 1;
let cacheBytes = 0;
let document: string | null = null;

function emit(event: EngineEvent): void {
  const host = 'host' in event.data ? hosts.get(event.data.host) : undefined;
  if (host !== undefined && event.event === 'host.report') {
    host.report = event.data.document;
  } else if (host !== undefined) {
    host.up = event.event === 'host.up';
  }
  if (event.event === 'document') {
    document = event.data.document;
  }
  listener.broadcast(event);
}

function addExport(row: ExportRow): void {
  if (!hosts.has(row.host) || !(row.pending || volumes.has(row.volume))) {
    throw new Refusal('ENOENT', `export ${row.id}: no such host or volume`);
  }
  exports.set(row.id, row);
}

function openNic(args: NicArgs & { host: string }): void {
  if (args.name.startsWith('bad') || !hosts.has(args.host)) {
    throw new Refusal('EIO', `${args.name} cannot be opened`);
  }
  if ([...nics.values()].some(({ name }) => name === args.name)) {
    throw new Refusal('EBUSY', `${args.name} is open`); // a tap has one owner
  }
  nics.set(args.id, { ...args, features: '0x0', filter: null, gone: false });
}

function createLayer({ path, sizeBytes, content }: EngineCommands['layer.create']['args']): void {
  if (existsSync(beside('full'))) {
    throw new Refusal('ENOSPC', 'No space left on device');
  }
  writeFileSync(path, JSON.stringify({ sizeBytes, content }));
}

/** Of the head, when it is an overlay of ours. */
function layerSize(path: string): number {
  return (JSON.parse(readFileSync(path, 'utf8')) as { sizeBytes: number }).sizeBytes;
}

function flushVolume(name: string): void {
  const [head] = layers.get(name) ?? [];
  if (head !== undefined && unflushed.delete(name)) {
    head.clusters++;
  }
}

async function cutVolume({ name, path, content }: EngineCommands['volume.cut']['args']): Promise<void> {
  if (existsSync(beside('fatal-cut'))) {
    process.exit(1);
  }
  if (name.startsWith('flushing')) {
    await sleep(300);
  }
  const row = volumes.get(name);
  if (row === undefined || name.startsWith('uncut')) {
    throw new Refusal('EIO', `${name} cannot be flushed`);
  }
  layerSize(path);
  flushVolume(name);
  volumes.set(name, { ...row, path, content });
  layers.set(name, [{ path, content, clusters: 0, zeroes: 0 }, ...(layers.get(name) ?? [])]);
}

async function openVolume(args: Args): Promise<Geometry> {
  const {
    name,
    kind,
    path,
    content,
    layers: rows,
    size,
    blockSize,
    readOnly,
    worker = 0,
    placement = 0,
    cache,
    domain,
  } = args as unknown as Omit<VolumeRow, 'path'> & {
    path?: string;
    layers?: LayerArgs[];
  };
  if (name.startsWith('bad') || (kind === 'file' && existsSync(beside('unread')))) {
    throw new Refusal('EIO', `${name} cannot be opened`);
  }
  if (domain !== undefined) {
    domains.assertOpen(domain.id);
  }
  if (name.startsWith('slow')) {
    await sleep(300);
  }
  const geometry = {
    size: size ?? (rows === undefined ? statSync(path ?? '').size : layerSize(path ?? '')),
    blockSize: blockSize ?? (name.startsWith('coarse') ? 4096 : 512),
    physicalBlockSize: 4096,
    direct: kind === 'file',
    discard: true,
    writeZeroes: true,
  };
  if (path !== undefined && content !== undefined) {
    const files = rows ?? [{ path, content, raw: true }];
    files.forEach((layer) => {
      statSync(layer.path); // all of them must be there
    });
    layers.set(
      name,
      files.map((layer) => ({ ...layer, clusters: 0, zeroes: 0 })),
    );
  }
  volumes.set(name, {
    name,
    kind,
    path: path ?? null,
    ...(content && { content }),
    ...(domain && { domain }),
    worker,
    placement,
    readOnly,
    flushFailed: false,
    errors: 0,
    lastError: null,
    ...(cacheBytes > 0 && kind === 'file' && cache !== undefined ? { cache } : {}),
    ...geometry,
  });
  return geometry;
}

function protectVolume({ name, domain, generation }: EngineCommands['volume.protect']['args']): void {
  const row = volumes.get(name);
  if (row === undefined || name.startsWith('unheld')) {
    throw new Refusal('EIO', `${name} cannot be in a domain`);
  }
  const { domain: _, ...bare } = row;
  if (domain !== null) {
    domains.assertOpen(domain.id);
  }
  volumes.set(name, domain === null ? bare : { ...bare, domain });
  for (const exported of [...exports.values()].filter(({ volume }) => volume === name)) {
    const { domainGeneration: __, ...plain } = exported;
    exports.set(exported.id, domain === null ? plain : { ...plain, domainGeneration: generation });
  }
}

/** The real one moves the exports too; here they have no place. */
function moveVolume(name: string, to: number): { ms: number; placement: number } {
  const row = volumes.get(name);
  if (existsSync(beside('fatal-move'))) {
    process.exit(1);
  }
  if (row === undefined || row.domain !== undefined || to >= workers || existsSync(beside('unmovable'))) {
    throw new Refusal('EIO', `${name} cannot be moved`);
  }
  const placement = (row.placement ?? 0) + 1;
  volumes.set(name, { ...row, worker: to, placement });
  listener.broadcast({ event: 'volume.moved', data: { volume: name, to, placement } });
  return { ms: 0.125, placement };
}

/** The same for every volume; with what was dropped they begin anew. */
function cacheStats({ name }: VolumeRow): CacheStats {
  const hits = dropped.has(name) ? 0 : 90;
  return {
    ...{ hits, misses: 10, sharedHits: 5, evictions: 2, bypassed: 1, fetches: 3, fetched: 10 },
    ...{ ahead: 8, aheadUsed: 6, aheadWasted: 1, writtenOut: 6, writeOuts: 2, writeErrors: 0 },
    ...{ throttled: 0, blocks: 16, dirty: 4, pinned: 0 },
  };
}

function listCache(): EngineCommands['cache.list']['result'] {
  if (cacheBytes === 0) {
    return { bytes: 0, workers: [], volumes: [] };
  }
  const part = Math.floor(cacheBytes / workers);
  const info = { bytes: part, bytesTarget: part, blocks: 16, blocksMax: 1000, metadataBytes: 8192, hugeBytes: 0 };
  return {
    bytes: cacheBytes,
    workers: Array.from({ length: workers }, () => ({ ...info, volumes: 1 })),
    volumes: [...volumes.values()].flatMap((row) => {
      const { name, worker = 0, cache } = row;
      return cache === undefined ? [] : [{ name, worker, mode: cache.mode, stats: cacheStats(row) }];
    }),
  };
}

function setVolumeCache({ name, drop, ...change }: EngineCommands['volume.cache']['args']): void {
  const row = volumes.get(name);
  if (row?.cache === undefined || existsSync(beside('uncacheable'))) {
    throw new Refusal('EINVAL', `${name} is not on the cache`);
  }
  if (drop) {
    dropped.add(name);
  }
  volumes.set(name, { ...row, cache: { ...row.cache, ...(change as Partial<VolumeCache>) } });
}

/** So many at worker 0, none at the others. */
function workerStats(worker: number): Nested {
  const first = Number(worker === 0);
  return { server: { requests: 7 * first, sessions: 1 }, loop: { steps: 10, sleptMs: 500, elapsedMs: 1000 } };
}

function identity(): PingResult {
  const port = state === 'standby' ? { mac: null, mtu: null } : { mac: '02:00:00:00:00:01', mtu: 9000 };
  return { state, pid: process.pid, version: 'double', build, startedAt, activeSince, settings, workers, ...port };
}

function prepare({ config }: { config: EngineConfig }): PingResult {
  if (config.port.interfaces[0] === 'none') {
    throw new Refusal('EIO', 'no interface called none');
  }
  settings = settingsOf(config);
  workers = config.role === 'iohv' ? (config.iohv.workerCpus?.length ?? 1) : 1;
  cacheBytes = config.role === 'iohv' ? (config.iohv.cache?.bytes ?? 0) : 0;
  return identity();
}

function activate(args: { config: EngineConfig }): PingResult {
  prepare(args);
  if (existsSync(beside('unusable'))) {
    throw new Refusal('EIO', 'of no use');
  }
  state = 'active';
  activeSince = Date.now();
  return identity();
}

function leaveDevices(): void {
  if (idsFile !== undefined) {
    writeFileSync(idsFile, JSON.stringify([...devices.keys(), ...left]));
  }
}

/** What the real engine would have on the wire, as far as a supervisor can tell. */
async function answer(cmd: string, args: Args): Promise<unknown> {
  switch (cmd) {
    case 'ping':
    case 'claim':
      return identity();
    case 'prepare':
      return prepare(args as unknown as { config: EngineConfig });
    case 'activate':
      return activate(args as unknown as { config: EngineConfig });
    case 'drain':
      if (existsSync(beside('undrained'))) {
        throw new Refusal('EIO', 'cannot drain');
      }
      if (existsSync(beside('slow-drain'))) {
        await sleep(300);
      }
      state = 'drained';
      return { inFlight: 0 };
    case 'stats':
      return { server: { requests: 7, refused: { digest: 2 } }, volumes: { disk1: { bytesRead: 4096 } } };
    case 'stop':
      if (existsSync(beside('slow-stop'))) {
        await sleep(Number(readFileSync(beside('slow-stop'), 'utf8')));
        writeFileSync(beside('stopped'), '');
      }
      setImmediate(() => process.exit(0));
      return {};
    case 'host.add': {
      const {
        name,
        keyId,
        exports: rows,
        nics: nicRows,
      } = args as unknown as {
        name: string;
        keyId: string;
        exports: ExportArgs[];
        nics: NicArgs[];
      };
      const fresh = {
        up: false,
        mac: null,
        since: null,
        srttUs: 0,
        requests: 0,
        inFlight: 0,
        mtu: 0,
        links: [],
        report: null,
      };
      hosts.set(name, { name, keyId, ...fresh });
      rows.forEach((row) => {
        addExport({ ...row, host: name });
      });
      const openNics = nicRows.filter((row) => !row.name.startsWith('bad'));
      for (const row of openNics) {
        openNic({ ...row, host: name });
      }
      return { openNics: openNics.map(({ id }) => id) };
    }
    case 'host.remove':
      if ([...exports.values(), ...nics.values()].some(({ host }) => host === args.name)) {
        throw new Refusal('EBUSY', `${String(args.name)} has exports or NICs`);
      }
      hosts.delete(String(args.name));
      return {};
    case 'volume.open':
      return openVolume(args);
    case 'volume.close':
      volumes.delete(String(args.name));
      return {};
    case 'layer.create':
      createLayer(args as EngineCommands['layer.create']['args']);
      return {};
    case 'volume.cut':
      await cutVolume(args as EngineCommands['volume.cut']['args']);
      return {};
    case 'volume.layers':
      return layers.get(String(args.name)) ?? [];
    case 'volume.flush':
      flushVolume(String(args.name));
      return {};
    case 'test.write':
      unflushed.add(String(args.name));
      return {};
    case 'volume.move':
      return moveVolume(String(args.name), Number(args.to));
    case 'volume.cache':
      setVolumeCache(args as unknown as EngineCommands['volume.cache']['args']);
      return {};
    case 'cache.set':
      cacheBytes = Number(args.bytes);
      return {};
    case 'cache.list':
      if (existsSync(beside('without-cache'))) {
        throw new Refusal('EOPNOTSUPP', 'this engine has no command cache.list now');
      }
      return listCache();
    case 'journal.create':
      domains.create(args as unknown as EngineCommands['journal.create']['args']);
      return {};
    case 'domain.open':
      return domains.open(args as unknown as DomainArgs);
    case 'domain.set':
      domains.set(args as unknown as EngineCommands['domain.set']['args']);
      return {};
    case 'domain.close':
      domains.close(args as unknown as EngineCommands['domain.close']['args']);
      return {};
    case 'domain.cut':
      return domains.cut(args as unknown as EngineCommands['domain.cut']['args']);
    case 'domain.commit':
      return domains.commit(args as unknown as EngineCommands['domain.commit']['args']);
    case 'domain.fence':
    case 'domain.reset':
      return domains.fence(args as unknown as EngineCommands['domain.fence']['args'], cmd === 'domain.reset');
    case 'domain.abort':
      domains.abort(Number(args.id));
      return {};
    case 'domain.list':
      return domains.list();
    case 'test.dirty':
      domains.write(Number(args.id));
      return {};
    case 'volume.protect':
      protectVolume(args as unknown as EngineCommands['volume.protect']['args']);
      return {};
    case 'loads':
      return { exports: [...loads.values()] };
    case 'workers':
      return Array.from({ length: workers }, (_, worker) => workerStats(worker));
    case 'volume.list':
      return [...volumes.values()];
    case 'export.add':
      addExport(args as unknown as ExportRow);
      return {};
    case 'export.remove':
      exports.delete(Number(args.id));
      return {};
    case 'export.list':
      return [...exports.values()];
    case 'nic.open':
      openNic(args as unknown as NicArgs & { host: string });
      return {};
    case 'nic.set': {
      const { id, ...change } = args as unknown as { id: number } & NicChange;
      const nic = nics.get(id);
      if (nic === undefined) {
        throw new Refusal('ENOENT', `no NIC ${id}`);
      }
      nics.set(id, { ...nic, ...change });
      return {};
    }
    case 'nic.close':
      if (!nics.delete(Number(args.id))) {
        throw new Refusal('ENOENT', `no NIC ${String(args.id)}`);
      }
      return {};
    case 'nic.list':
      if (existsSync(beside('without-nics'))) {
        throw new Refusal('EOPNOTSUPP', 'this engine has no command nic.list now');
      }
      return [...nics.values()].map((nic) => ({
        ...nic,
        stats: { tx: { packets: 3, bytes: 180, errors: 0, dropped: { spoofed: 2 } }, rx: { packets: 0, bytes: 0 } },
      }));
    case 'hosts':
      return [...hosts.values()];
    case 'keep.give-up':
      rmSync(beside('unread'), { force: true });
      return { bytes: 8192 };
    case 'keep.forget':
      return { bytes: 0 };
    case 'keep':
      if (existsSync(beside('unkept'))) {
        throw new Refusal('ENOENT', 'no such socket');
      }
      idsFile = `${String(args.path)}.ids`;
      left = existsSync(idsFile) ? (JSON.parse(readFileSync(idsFile, 'utf8')) as number[]) : [];
      return { devices: left };
    case 'device.add': {
      const device = args as unknown as DeviceArgs;
      const restored = left.includes(device.id);
      if (!restored) {
        writeFileSync(device.socket, ''); // something whose mode can be set
      }
      left = left.filter((id) => id !== device.id);
      devices.set(device.id, device);
      leaveDevices();
      return { restored };
    }
    case 'device.set': {
      const { id, ...change } = args as unknown as DeviceChange;
      const device = devices.get(id);
      if (device === undefined) {
        throw new Refusal('ENOENT', `no device ${id}`);
      }
      devices.set(id, { ...device, ...change });
      return {};
    }
    case 'device.remove': {
      const id = Number(args.id);
      const isThere = devices.delete(id) || left.includes(id);
      left = left.filter((other) => other !== id);
      leaveDevices();
      if (!isThere) {
        throw new Refusal('ENOENT', `no device ${id}`);
      }
      return {};
    }
    case 'devices':
      return [...devices.values()].map((device) => ({
        ...device,
        state: 'listening',
        reason: '',
        stats: device.kind === 'net' ? { txPackets: 4 } : { reads: 5 },
      }));
    case 'session':
      return { up: document !== null, reason: '', document, links: [] };
    case 'document.set':
    case 'report.put':
      return {};
    case 'test.emit':
      emit(args as unknown as EngineEvent);
      return {};
    case 'test.gone': {
      const nic = nics.get(Number(args.id));
      if (nic !== undefined) {
        nic.gone = true;
      }
      return {};
    }
    case 'test.load': {
      const { id, requests, bytes } = args as unknown as ExportLoad;
      const before = loads.get(id);
      const total = { requests: (before?.requests ?? 0) + requests, bytes: (before?.bytes ?? 0) + bytes };
      loads.set(id, { id, worker: 0, inFlight: 0, ...total });
      return {};
    }
    case 'test.log':
      return log;
    default:
      throw new Refusal('ENOSYS', `unknown command ${cmd}`);
  }
}

const listener = new Listener((cmd) => (args) => {
  log.push({ cmd, args: args as Args });
  return answer(cmd, args as Args);
});
await listener.listen(socketPath);
setInterval(() => {}, 60_000); // lives until it is told to stop
