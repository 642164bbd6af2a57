// The host agent's supervisor. It has no desired state of its own: the devices are those of the last
// document of the I/O hypervisor, and it reports back what became of them.
import { dirname } from 'node:path';
import { messageOf, refuse } from '../errors.js';
import type { NativeDescriptorStore } from '../native/addon.js';
import type { Logger } from '../telemetry/log.js';
import type { Nested } from '../telemetry/metrics.js';
import {
  type DeviceEntry,
  isNet,
  type NetEntry,
  parseDeviceDocument,
  type ReportDocument,
  type ReportEntry,
} from './documents.js';
import { type EngineClient, untilGone } from './engine-client.js';
import { EngineKeeper, type EngineStatus, type UpgradeResult } from './engine-keeper.js';
import type { EngineSettings } from './engine-settings.js';
import { deviceKey, type HostStep, planHost, socketOf } from './host-planner.js';
import { NO_LIMIT } from './limits.js';
import type { DeviceArgs, DeviceRow, DeviceState, EngineEvent, LinkRow, WorkerSession } from './protocol.js';
import { Reconciler } from './reconciler.js';
import { RxFilters } from './rx-filters.js';
import { grantAccess, makeSocketFolder, removeSocket, type SocketAccess } from './vhost-sockets.js';

export interface HostSupervisorOptions {
  name: string;
  version: string;
  socketDir: string;
  socketAccess: SocketAccess;
  engine: EngineSettings;
  /** Makes the place where engines leave their devices' descriptors for the next one, on the given socket. */
  openKeep(socket: string): NativeDescriptorStore;
  log: Logger;
}

export interface SessionStatus {
  up: boolean;
  reason: string;
}

const REPORT_RETRY_MS = 1000;

export class HostSupervisor {
  private readonly options: HostSupervisorOptions;
  private readonly keeper: EngineKeeper;
  private readonly reconciler: Reconciler<HostStep>;
  private client: EngineClient | undefined;
  /** undefined while the engine is away or its state is being learnt. */
  private actual: Map<number, DeviceArgs> | undefined;
  private devices: DeviceEntry[] | undefined;
  /** Devices of the last engine that this one can still restore. */
  private left = new Set<number>();
  private keep: NativeDescriptorStore | undefined;
  private readonly states = new Map<number, { state: DeviceState; reason: string; features?: string }>();
  private readonly filters: RxFilters;
  private session: SessionStatus = { up: false, reason: 'not connected yet' };
  private reportVersion = 0;
  private reporting = false;
  private reported = '';

  constructor(options: HostSupervisorOptions) {
    this.options = options;
    this.filters = new RxFilters({
      onChange: () => this.reconciler.trigger(),
      onFailure: (qmp, reason) => options.log.warn('nic.qmp-failed', { qmp, reason }),
    });
    this.reconciler = new Reconciler({
      plan: () => {
        const steps = this.actual && planHost(this.devices, options.socketDir, this.actual, this.left);
        this.report();
        this.noteServing();
        return steps;
      },
      execute: (step) => this.execute(step),
      onFailure: (step, reason, retryMs) =>
        options.log.warn('step.failed', { step: step.do, key: step.key, reason, retry_ms: retryMs }),
    });
    this.keeper = new EngineKeeper({
      ...options.engine,
      log: options.log,
      onUp: (client) => this.learn(client),
      onDown: (reason) => {
        this.client = undefined;
        this.actual = undefined;
        this.left.clear();
        this.states.clear();
        this.session = { up: false, reason };
        this.reconciler.reset();
      },
      onEvent: (event) => this.onEvent(event),
    });
  }

  start(): void {
    this.keep = this.options.openKeep(this.keepSocket);
    this.keeper.start();
  }

  /** leave: the engines go on, for the next supervisor. */
  async stop(leave = false): Promise<void> {
    this.reconciler.stop();
    this.filters.stop();
    await this.keeper.stop(leave);
    this.keep?.close();
  }

  /** Throws engine_unavailable, engine_busy, engine_upgrade_failed. */
  upgradeEngine(): Promise<UpgradeResult> {
    return this.keeper.upgrade();
  }

  private get keepSocket(): string {
    return `${dirname(this.options.engine.filesPrefix)}/host-keep.sock`;
  }

  engineStatus(): EngineStatus {
    return this.keeper.status();
  }

  get engineLog(): string {
    return this.keeper.logPath;
  }

  sessionStatus(): SessionStatus {
    return this.session;
  }

  /** The links of the session, and the workers that there are sessions with; none while the engine is away. */
  async sessionParts(): Promise<{ links: LinkRow[]; workers: WorkerSession[] }> {
    const session = await this.client?.request('session', {}).catch(() => undefined); // its keeper tells what ended it
    return { links: session?.links ?? [], workers: session?.workers ?? [] };
  }

  /** The devices that this host shall have; none before the I/O hypervisor has spoken. */
  deviceEntries(): readonly DeviceEntry[] {
    return this.devices ?? [];
  }

  socketOf(entry: DeviceEntry): string {
    return socketOf(entry, this.options.socketDir);
  }

  /** What became of a device; undefined while the engine does not have it. */
  deviceStatus(entry: DeviceEntry): ReportEntry | undefined {
    const socket = this.socketOf(entry);
    const failure = this.reconciler.failureOf(deviceKey(entry.id));
    if (failure !== undefined) {
      return { id: entry.id, state: 'broken', reason: failure, socket };
    }
    if (!this.actual?.has(entry.id)) {
      return undefined;
    }
    const filter = isNet(entry) ? this.filters.filterOf(entry) : undefined;
    return {
      id: entry.id,
      ...(this.states.get(entry.id) ?? { state: 'listening', reason: '' }),
      socket,
      ...(filter === undefined ? {} : { filter }),
    };
  }

  /**
   * The engine's counters, those of every disk as `devices`, by VM/DISK, and of every NIC as `nics`, by VM/NIC.
   * Throws engine_unavailable.
   */
  async stats(): Promise<Nested> {
    if (this.client === undefined) {
      throw refuse('engine_unavailable', 'the engine is not running, so there are no counters');
    }
    const [stats, rows] = await Promise.all([this.client.request('stats', {}), this.client.request('devices', {})]);
    const counters = new Map(rows.map((row) => [row.id, row.stats]));
    const [devices, nics]: [Nested, Nested] = [{}, {}];
    for (const entry of this.deviceEntries()) {
      const [group, name] = isNet(entry) ? [nics, entry.nic] : [devices, entry.disk];
      group[`${entry.vm}/${name}`] = counters.get(entry.id) ?? {};
    }
    return { ...stats, devices, nics };
  }

  /** Asks a new or adopted engine what it has. */
  private async learn(client: EngineClient): Promise<void> {
    this.client = client;
    const [left, devices, session] = await Promise.all([
      this.leaveDevices(client),
      client.request('devices', {}),
      client.request('session', {}),
    ]);
    this.left = new Set(left);
    this.actual = new Map(devices.map((row) => [row.id, argsOf(row)]));
    for (const { id, state, reason, features } of devices) {
      this.states.set(id, { state, reason, ...(features === undefined ? {} : { features }) });
    }
    this.session = { up: session.up, reason: session.reason };
    if (session.document !== null) {
      this.takeDocument(session.document);
    }
    this.reported = '';
    this.options.log.info('engine.learnt', { devices: devices.length, left: left.length, session: session.up });
    this.reconciler.reset();
  }

  /** From now on the engine leaves its devices with us. Resolves with those that the last one left. */
  private async leaveDevices(client: EngineClient): Promise<number[]> {
    try {
      return (await client.request('keep', { path: this.keepSocket })).devices;
    } catch (error) {
      this.options.log.error('keep.failed', { reason: messageOf(error) });
      return [];
    }
  }

  /** The session is there and every device that can be made. */
  private noteServing(): void {
    const { actual, devices, keeper, reconciler } = this;
    const isThere = ({ id }: DeviceEntry) => actual?.has(id) || reconciler.failureOf(deviceKey(id)) !== undefined;
    if (keeper.isBlackout && actual !== undefined && this.session.up && devices?.every(isThere)) {
      keeper.served();
    }
  }

  private async execute(step: HostStep): Promise<void> {
    const { actual, client } = this;
    if (actual === undefined || client === undefined) {
      return;
    }
    let restored: boolean | undefined;
    switch (step.do) {
      case 'device.add':
        restored = await this.addDevice(step.device, client);
        actual.set(step.device.id, step.device);
        break;
      case 'device.set':
        await client.request('device.set', step.change);
        actual.set(step.device.id, step.device);
        break;
      case 'device.remove':
        await untilGone(client.request('device.remove', { id: step.device.id }, 0));
        actual.delete(step.device.id);
        this.states.delete(step.device.id);
        await removeSocket(step.device.socket);
        break;
      case 'device.drop':
        await untilGone(client.request('device.remove', { id: step.id }, 0));
        this.left.delete(step.id);
        break;
      default:
        return step satisfies never;
    }
    const socket = step.do === 'device.drop' ? undefined : step.device.socket;
    this.options.log.info('step.done', { step: step.do, key: step.key, socket, restored: restored || undefined });
  }

  /** One that the last engine left keeps its socket, and QEMU its connection. */
  private async addDevice(device: DeviceArgs, client: EngineClient): Promise<boolean> {
    await makeSocketFolder(device.socket);
    const { restored } = await client.request('device.add', device, 0);
    this.left.delete(device.id);
    try {
      if (!restored) {
        await grantAccess(device.socket, this.options.socketAccess);
      }
      return restored;
    } catch (error) {
      await client.request('device.remove', { id: device.id }, 0); // so that the next try starts clean
      throw error;
    }
  }

  private onEvent(event: EngineEvent): void {
    const { log } = this.options;
    switch (event.event) {
      case 'session.up':
        this.session = { up: true, reason: '' };
        this.reported = ''; // whoever is there now may not have heard it
        log.info('session.up');
        break;
      case 'session.down':
        this.session = { up: false, reason: event.data.reason };
        log.warn('session.down', event.data);
        break;
      case 'link.up':
        log.info('link.up', event.data);
        break;
      case 'link.down':
        log.warn('link.down', event.data);
        break;
      case 'port.up':
        log.info('port.up', event.data);
        break;
      case 'port.down':
        log.warn('port.down', event.data);
        break;
      case 'document':
        this.takeDocument(event.data.document);
        break;
      case 'device.state': {
        const { id, ...rest } = event.data;
        this.states.set(id, rest);
        const entry = this.devices?.find((device) => device.id === id);
        const fields = { id, vm: entry?.vm, state: rest.state, reason: rest.reason || undefined };
        if (entry !== undefined && isNet(entry)) {
          log.info('nic.state', { ...fields, nic: entry.nic });
        } else {
          log.info('device.state', { ...fields, disk: entry?.disk });
        }
        break;
      }
      case 'segment.intrusion':
        log.warn('segment.intrusion', event.data);
        return;
      default:
        return; // events of the other role
    }
    this.reconciler.trigger();
  }

  private takeDocument(text: string): void {
    const document = parseDeviceDocument(text);
    if (!document.ok) {
      this.options.log.error('document.refused', { reason: document.reason });
      return;
    }
    this.devices = document.value.devices;
    this.filters.follow(this.devices.filter((entry): entry is NetEntry => isNet(entry)));
    this.options.log.info('document', { version: document.value.version, devices: this.devices.length });
  }

  /** Tells the I/O hypervisor the state of the devices when it differs from what it was told last. */
  private report(): void {
    const { client } = this;
    if (client === undefined || this.devices === undefined || !this.session.up || this.reporting) {
      return;
    }
    const devices = this.devices.flatMap((entry) => this.deviceStatus(entry) ?? []);
    const content = JSON.stringify(devices);
    if (content === this.reported) {
      return;
    }
    const { name, version } = this.options;
    const document: ReportDocument = { version: ++this.reportVersion, host: name, agentVersion: version, devices };
    this.reporting = true;
    this.reported = content;
    client
      .request('report.put', { document: JSON.stringify(document) })
      .catch((error: unknown) => {
        this.reported = '';
        this.options.log.warn('report.failed', { reason: String(error) });
      })
      .finally(() => {
        this.reporting = false;
        setTimeout(() => this.reconciler.trigger(), this.reported === '' ? REPORT_RETRY_MS : 0).unref();
      });
  }
}

/** What an engine says that it has; one of an earlier build leaves out what goes without saying. */
function argsOf({ state: _s, reason: _r, stats: _t, features: _f, ...device }: DeviceRow): DeviceArgs {
  const assumed = { kind: 'disk', limit: NO_LIMIT, worker: 0, placement: 0 };
  return { ...assumed, ...device };
}
