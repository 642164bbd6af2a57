// What an engine does for each command of the protocol, and what it remembers so that a supervisor that
// comes later can learn what is running (the C core knows numbers and descriptors, not paths and words).
import { INTEGRITY, type NativeConfig, type NativeEngine } from '../native/addon.js';
import {
  CACHE_BYTES_MIN,
  type DeviceArgs,
  type DeviceRow,
  type EngineCommands,
  type EngineConfig,
  type EngineEvent,
  type LinkRow,
} from '../supervisor/protocol.js';
import { featuresOf } from './features.js';
import { PatientEngine } from './patient.js';

/**
 * How long a command waits for the lock of a file, ms: an engine that died may still write to it. Then the supervisor
 * tells why it waits, and tries again.
 */
export const LOCK_TIMEOUT_MS = 10_000;

/** Of each worker. */
const BUFFER_BYTES_MIN = 4 << 20;

type HandlerOf<C extends keyof EngineCommands> = (
  args: EngineCommands[C]['args'],
) => Promise<EngineCommands[C]['result']> | EngineCommands[C]['result'];

export type Handlers = { [C in keyof EngineCommands]?: HandlerOf<C> };
/** Of any command: the supervisor is trusted to send what the types say. */
export type Handler = (args: unknown) => unknown;

export function findHandler(handlers: Handlers, cmd: string): Handler | undefined {
  return Object.hasOwn(handlers, cmd) ? (handlers[cmd as keyof Handlers] as Handler) : undefined;
}

/** Each worker's part of the cache. */
export function cacheShare(bytes: number, workers: number): number {
  return Math.max(Math.floor(bytes / workers), CACHE_BYTES_MIN);
}

/** One for each worker: they share the request buffers and the cache's budget, and nothing else. */
export function nativeConfigs(config: EngineConfig): NativeConfig[] {
  const { nice, spinUs } = config.worker;
  const { mode: portMode = 'packet', superFrames = 'auto', ...port } = config.port;
  const common = { ...port, portMode, superFrames, nice, spinUs };
  if (config.role === 'iohv') {
    const { integrity, slots, bufferBytes, fifo = false, workerCpus = [config.worker.cpu], cache } = config.iohv;
    const share = Math.max(Math.floor(bufferBytes / workerCpus.length), BUFFER_BYTES_MIN);
    return workerCpus.map((cpu, worker) => ({
      ...common,
      ...{ worker, cpu: cpu ?? -1, role: 'iohv', integrity: INTEGRITY[integrity], slots, fifo },
      bufferBytes: workerCpus.length === 1 ? bufferBytes : share,
      ...(cache?.bytes ? { cache: { ...cache, bytes: cacheShare(cache.bytes, workerCpus.length) } } : {}),
    }));
  }
  const { name, keyBase64, serverMacs, integrityMin } = config.host;
  return [
    {
      ...common,
      ...{ worker: 0, cpu: config.worker.cpu ?? -1, role: 'host', name },
      key: Buffer.from(keyBase64, 'base64'),
      serverMacs: serverMacs.map((mac) => Buffer.from(mac.replaceAll(':', ''), 'hex')),
      integrityMin: INTEGRITY[integrityMin],
    },
  ];
}

export function failure(code: string, message: string): Error {
  return Object.assign(new Error(message), { code });
}

/** What `stats` says of the sessions, beside counters. */
interface ClientStats {
  links: LinkRow[];
  /** By number. */
  workers: Record<string, { up: number; inFlight: number }>;
}

/** The host agent's engine. */
export class HostCommands {
  private readonly engine: PatientEngine;
  private readonly devices = new Map<number, DeviceArgs & { reason: string }>();
  private session: Omit<EngineCommands['session']['result'], 'links' | 'workers'> = {
    up: false,
    reason: 'not yet connected',
    document: null,
  };

  constructor(engine: NativeEngine) {
    this.engine = new PatientEngine(engine);
  }

  readonly handlers: Handlers = {
    keep: (args) => this.engine.submit('keep', args),
    'device.add': async (args) => {
      if (this.devices.has(args.id)) {
        // Before its socket is bound anew, which would take it from the device that is there.
        throw Object.assign(new Error(`device ${args.id} is there already`), { code: 'EEXIST' });
      }
      // Known before it is there, because its first event may overtake the answer.
      this.devices.set(args.id, { ...args, reason: '' });
      try {
        return await this.engine.submit('device.add', args);
      } catch (error) {
        this.devices.delete(args.id);
        throw error;
      }
    },
    'device.set': async (args) => {
      await this.engine.submit('device.set', args);
      const device = this.devices.get(args.id);
      if (device) {
        this.devices.set(args.id, { ...device, ...args });
      }
      return {};
    },
    'device.remove': async ({ id }) => {
      await this.engine.submit('device.remove', { id });
      this.devices.delete(id);
      return {};
    },
    devices: async () => {
      const rows = await this.engine.submit('devices', {});
      return rows.flatMap(({ features, ...row }): DeviceRow[] => {
        const device = this.devices.get(row.id);
        return device ? [{ ...device, ...row, ...featuresOf(features) }] : [];
      });
    },
    session: async () => {
      const { client } = (await this.engine.submit('stats', {})) as unknown as { client: ClientStats };
      const workers = Object.entries(client.workers).map(([worker, { up, inFlight }]) => ({
        ...{ worker: Number(worker), up: up === 1, inFlight },
      }));
      return { ...this.session, links: client.links, workers };
    },
    'report.put': async (args) => {
      await this.engine.submit('report.put', args);
      return {};
    },
  };

  observe(event: EngineEvent): void {
    if (event.event === 'session.up') {
      this.session = { ...this.session, up: true, reason: '' };
    } else if (event.event === 'session.down') {
      this.session = { ...this.session, up: false, reason: event.data.reason };
    } else if (event.event === 'document') {
      this.session = { ...this.session, document: event.data.document };
    } else if (event.event === 'device.state') {
      const device = this.devices.get(event.data.id);
      if (device) {
        device.reason = event.data.reason;
      }
    }
  }
}
