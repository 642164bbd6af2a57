// Stands in for the engine in tests of the supervisors: the same start (`--config FILE`), the same protocol
// over a real unix socket, state in memory, no I/O. The real engine is tested in test/integration.
//
// The tests steer it through names and two commands of its own:
//  - a volume whose name starts with `bad` cannot be opened; one that starts with `slow` opens after 300 ms;
//  - {"cmd": "test.emit", "args": EVENT} sends an event to every client;
//  - {"cmd": "test.log"} answers all commands so far, in order;
//  - an interface named `none` in the configuration makes it refuse to start.
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import type {
  DeviceArgs,
  EngineConfig,
  EngineEvent,
  ExportArgs,
  ExportRow,
  Geometry,
  HostRow,
  VolumeRow,
} from '../../../src/supervisor/protocol.js';

type Args = Record<string, unknown>;

class Refusal extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

const config = JSON.parse(readFileSync(process.argv[3] ?? '', 'utf8')) as EngineConfig;
if (config.port.interface === 'none') {
  process.stderr.write('no interface called none\n');
  process.exit(1);
}

const startedAt = Date.now();
const clients = new Set<Socket>();
const log: { cmd: string; args: Args }[] = [];
const hosts = new Map<string, HostRow>();
const volumes = new Map<string, VolumeRow>();
const exports = new Map<number, ExportRow>();
const devices = new Map<number, DeviceArgs>();
let document: string | null = null;

function send(socket: Socket, message: unknown): void {
  socket.write(`${JSON.stringify(message)}\n`);
}

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
  for (const client of clients) {
    send(client, event);
  }
}

function addExport(row: ExportRow): void {
  if (!hosts.has(row.host) || !volumes.has(row.volume)) {
    throw new Refusal('ENOENT', `export ${row.id}: no such host or volume`);
  }
  exports.set(row.id, row);
}

async function openVolume(args: Args): Promise<Geometry> {
  const { name, kind, path, size, blockSize, readOnly } = args as unknown as Omit<VolumeRow, 'path'> & {
    path?: string;
  };
  if (name.startsWith('bad')) {
    throw new Refusal('EIO', `${name} cannot be opened`);
  }
  if (name.startsWith('slow')) {
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  const geometry = {
    size: size ?? statSync(path ?? '').size,
    blockSize: blockSize ?? 512,
    physicalBlockSize: 4096,
    direct: kind === 'file',
    discard: true,
    writeZeroes: true,
  };
  volumes.set(name, { name, kind, path: path ?? null, readOnly, ...geometry });
  return geometry;
}

/** What the real engine would have on the wire, as far as a supervisor can tell. */
async function answer(cmd: string, args: Args): Promise<unknown> {
  switch (cmd) {
    case 'ping':
      return { role: config.role, pid: process.pid, version: 'double', startedAt, mac: '02:00:00:00:00:01', mtu: 9000 };
    case 'stats':
      return { server: { requests: 7, refused: { digest: 2 } }, volumes: { disk1: { bytesRead: 4096 } } };
    case 'stop':
      setImmediate(() => process.exit(0));
      return {};
    case 'host.add': {
      const { name, keyId, exports: rows } = args as { name: string; keyId: string; exports: ExportArgs[] };
      const fresh = { up: false, mac: null, since: null, srttUs: 0, requests: 0, inFlight: 0, report: null };
      hosts.set(name, { name, keyId, ...fresh });
      rows.forEach((row) => {
        addExport({ ...row, host: name });
      });
      return {};
    }
    case 'host.remove':
      if ([...exports.values()].some(({ host }) => host === args.name)) {
        throw new Refusal('EBUSY', `${String(args.name)} has exports`);
      }
      hosts.delete(String(args.name));
      return {};
    case 'volume.open':
      return openVolume(args);
    case 'volume.close':
      volumes.delete(String(args.name));
      return {};
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
    case 'hosts':
      return [...hosts.values()];
    case 'device.add': {
      const device = args as unknown as DeviceArgs;
      writeFileSync(device.socket, ''); // something whose mode can be set
      devices.set(device.id, device);
      return {};
    }
    case 'device.remove':
      devices.delete(Number(args.id));
      return {};
    case 'devices':
      return [...devices.values()].map((device) => ({
        ...device,
        state: 'listening',
        reason: '',
        stats: { reads: 5 },
      }));
    case 'session':
      return { up: document !== null, reason: '', document };
    case 'document.set':
    case 'report.put':
      return {};
    case 'test.emit':
      emit(args as unknown as EngineEvent);
      return {};
    case 'test.log':
      return log;
    default:
      throw new Refusal('ENOSYS', `unknown command ${cmd}`);
  }
}

rmSync(config.socket, { force: true });
createServer((socket) => {
  clients.add(socket);
  socket.on('error', () => {});
  socket.on('close', () => clients.delete(socket));
  const lines = createInterface({ input: socket });
  lines.on('error', () => {}); // it repeats the socket's
  lines.on('line', async (line) => {
    const { id, cmd, args } = JSON.parse(line) as { id: number; cmd: string; args: Args };
    log.push({ cmd, args });
    try {
      send(socket, { id, ok: true, result: await answer(cmd, args) });
    } catch (error) {
      const { code, message } = error as Refusal;
      send(socket, { id, ok: false, error: { code, message } });
    }
  });
}).listen(config.socket);
