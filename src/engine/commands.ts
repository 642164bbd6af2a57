// What an engine does for each command of the protocol, and what it remembers so that a supervisor that
// comes later can learn what is running (the C core knows numbers and descriptors, not paths and words).
import { INTEGRITY, type NativeConfig, type NativeEngine } from '../native/addon.js';
import {
  type DeviceArgs,
  type DeviceRow,
  type EngineCommands,
  type EngineConfig,
  type EngineEvent,
  type ExportRow,
  type Geometry,
  type HostRow,
  type LinkRow,
  type NicArgs,
  type NicPort,
  type VolumeRow,
  WEIGHT_DEFAULT,
} from '../supervisor/protocol.js';
import { noteVolumeError } from '../supervisor/volume-errors.js';
import { featuresOf } from './features.js';
import { PatientEngine } from './patient.js';

/** How long volume.open waits for the I/O of an engine that died, ms. */
const LOCK_TIMEOUT_MS = 60_000;

type HandlerOf<C extends keyof EngineCommands> = (
  args: EngineCommands[C]['args'],
) => Promise<EngineCommands[C]['result']> | EngineCommands[C]['result'];

export type Handlers = { [C in keyof EngineCommands]?: HandlerOf<C> };
/** Of any command: the supervisor is trusted to send what the types say. */
export type Handler = (args: unknown) => unknown;

export function findHandler(handlers: Handlers, cmd: string): Handler | undefined {
  return Object.hasOwn(handlers, cmd) ? (handlers[cmd as keyof Handlers] as Handler) : undefined;
}

export function nativeConfig(config: EngineConfig): NativeConfig {
  const worker = {
    ...config.port,
    superFrames: config.port.superFrames ?? 'auto',
    cpu: config.worker.cpu ?? -1,
    nice: config.worker.nice,
    spinUs: config.worker.spinUs,
  };
  if (config.role === 'iohv') {
    const { integrity, slots, bufferBytes, fifo = false } = config.iohv;
    return { ...worker, role: 'iohv', integrity: INTEGRITY[integrity], slots, bufferBytes, fifo };
  }
  const { name, keyBase64, serverMacs, integrityMin } = config.host;
  return {
    ...worker,
    role: 'host',
    name,
    key: Buffer.from(keyBase64, 'base64'),
    serverMacs: serverMacs.map((mac) => Buffer.from(mac.replaceAll(':', ''), 'hex')),
    integrityMin: INTEGRITY[integrityMin],
  };
}

/** The I/O hypervisor's engine. */
export class IohvCommands {
  private readonly engine: PatientEngine;
  private readonly volumes = new Map<string, VolumeRow>();
  private readonly opening = new Map<string, Promise<Geometry>>();
  private readonly exports = new Map<number, ExportRow>();
  private readonly nics = new Map<number, NicPort>();
  private readonly hosts = new Map<string, Pick<HostRow, 'keyId' | 'since' | 'report'>>();

  constructor(engine: NativeEngine) {
    this.engine = new PatientEngine(engine);
  }

  readonly handlers: Handlers = {
    'host.add': async ({ name, keyBase64, keyId, exports, nics = [] }) => {
      await this.engine.submit('host.add', { name, key: Buffer.from(keyBase64, 'base64') });
      this.hosts.set(name, { keyId, since: null, report: null });
      await Promise.all(exports.map((row) => this.addExport({ ...row, host: name })));
      const openings = nics.map((args) =>
        this.openNic({ ...args, host: name }).then(
          () => [args.id],
          () => [], // the supervisor tries again, and hears why
        ),
      );
      const openNics = (await Promise.all(openings)).flat();
      await this.engine.submit('host.admit', { name });
      return { openNics };
    },
    'host.remove': async ({ name }) => {
      await this.engine.submit('host.remove', { name });
      this.hosts.delete(name);
      return {};
    },
    hosts: async () => {
      const rows = await this.engine.submit('hosts', {});
      return rows.map((row) => ({
        ...row,
        ...(this.hosts.get(row.name) ?? { keyId: null, since: null, report: null }),
      }));
    },
    // A supervisor that was restarted meanwhile asks again: there is one opening, and one answer for all.
    'volume.open': (args) => {
      const begun = this.opening.get(args.name) ?? this.openVolume(args).finally(() => this.opening.delete(args.name));
      this.opening.set(args.name, begun);
      return begun;
    },
    'volume.close': async ({ name }) => {
      await this.engine.submit('volume.close', { name });
      this.volumes.delete(name);
      return {};
    },
    'volume.list': () => [...this.volumes.values()],
    'export.add': async (row) => {
      await this.addExport(row);
      return {};
    },
    'export.set': async ({ id, weight }) => {
      await this.engine.submit('export.set', { id, weight });
      const row = this.exports.get(id);
      if (row) {
        this.exports.set(id, { ...row, weight });
      }
      return {};
    },
    'export.remove': async ({ id }) => {
      await this.engine.submit('export.remove', { id });
      this.exports.delete(id);
      return {};
    },
    'export.list': () => [...this.exports.values()],
    'nic.open': async (args) => {
      await this.openNic(args);
      return {};
    },
    'nic.set': async ({ id, ...change }) => {
      await this.engine.submit('nic.set', { id, ...change });
      const nic = this.nics.get(id);
      if (nic) {
        this.nics.set(id, { ...nic, ...change });
      }
      return {};
    },
    'nic.close': async ({ id }) => {
      await this.engine.submit('nic.close', { id });
      this.nics.delete(id);
      return {};
    },
    'nic.list': async () => {
      const rows = await this.engine.submit('nic.list', {});
      return rows.flatMap(({ id, gone, stats }) => {
        const nic = this.nics.get(id);
        return nic ? [{ ...nic, gone, stats }] : [];
      });
    },
    'document.set': async (args) => {
      await this.engine.submit('document.set', args);
      return {};
    },
  };

  observe(event: EngineEvent): void {
    if (event.event === 'volume.error') {
      noteVolumeError(this.volumes, event.data);
      return;
    }
    if (event.event !== 'host.up' && event.event !== 'host.down' && event.event !== 'host.report') {
      return;
    }
    const host = this.hosts.get(event.data.host);
    if (host && event.event === 'host.report') {
      host.report = event.data.document;
    } else if (host) {
      host.since = Date.now();
    }
  }

  private async openVolume(args: EngineCommands['volume.open']['args']): Promise<Geometry> {
    const geometry = await this.engine.submit('volume.open', { ...args, lockTimeoutMs: LOCK_TIMEOUT_MS });
    const { name, kind, path, readOnly, flushFailed } = args;
    const fresh = { readOnly, flushFailed, errors: 0, lastError: null };
    this.volumes.set(name, { name, kind, path: path ?? null, ...fresh, ...geometry });
    return geometry;
  }

  private async openNic(args: NicArgs & { host: string }): Promise<void> {
    await this.engine.submit('nic.open', args);
    this.nics.set(args.id, { ...args, features: '0x0', filter: null, gone: false });
  }

  private async addExport(row: ExportRow): Promise<void> {
    await this.engine.submit('export.add', { ...row, weight: row.weight ?? WEIGHT_DEFAULT });
    this.exports.set(row.id, row);
  }
}

/** The host agent's engine. */
export class HostCommands {
  private readonly engine: PatientEngine;
  private readonly devices = new Map<number, DeviceArgs & { reason: string }>();
  private session: Omit<EngineCommands['session']['result'], 'links'> = {
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
      const { client } = (await this.engine.submit('stats', {})) as unknown as { client: { links: LinkRow[] } };
      return { ...this.session, links: client.links };
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
