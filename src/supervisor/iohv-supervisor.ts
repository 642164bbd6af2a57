// The I/O hypervisor's supervisor: holds the desired state against what its engine has. It survives its
// engine and its engine survives it; whichever comes back learns or re-applies what the other one knows.
import { dirname } from 'node:path';
import { messageOf, refuse } from '../errors.js';
import type { NativeDescriptorStore } from '../native/addon.js';
import type { Logger } from '../telemetry/log.js';
import type { Nested } from '../telemetry/metrics.js';
import { CutWaiters } from './cut-waiters.js';
import { Dispatcher } from './dispatcher.js';
import { DomainWatch } from './domain-watch.js';
import { type EngineCaller, type EngineClient, EngineCommandError } from './engine-client.js';
import { EngineKeeper, type EngineStatus, type UpgradeResult } from './engine-keeper.js';
import { EngineRows, listCache, listDomains, listNics, orIfUnknown } from './engine-rows.js';
import type { EngineSettings } from './engine-settings.js';
import { HostReports } from './host-reports.js';
import { executeIohv, noteMoved } from './iohv-executor.js';
import { depthOf, type IohvActual, type IohvStep, isInBackground, planIohv, volumeKey } from './iohv-planner.js';
import type { Domain, KnownHost, Volume } from './model.js';
import type { NetSetup } from './net-setup.js';
import { isOnline, type Policy } from './placement.js';
import type { CacheSettings, EngineEvent, VolumeError, VolumeRow } from './protocol.js';
import { Reconciler } from './reconciler.js';
import { StepWaiters } from './step-waiters.js';
import type { Store } from './store.js';
import { faultOf, noteVolumeError } from './volume-errors.js';
import { lookAtWorkers, type WorkerInfo } from './worker-look.js';

export interface IohvSupervisorOptions {
  store: Store;
  hosts: readonly KnownHost[];
  net: NetSetup;
  engine: EngineSettings;
  dispatch: DispatchSettings;
  /** Of the descriptor store that holds the memory of the engine's cache and domains. Left out: nobody does. */
  openKeep?(socket: string): NativeDescriptorStore;
  log: Logger;
}

export interface DispatchSettings {
  policy: Policy;
  /** How often loads are looked at; 0: never. */
  rebalanceMs: number;
}

/** Workers are not asked for their loads more often. */
const REBALANCE_MS_MIN = 1000;
/** All of a cache may have to be written out. */
const FLUSH_TIMEOUT_MS = 60_000;
/** How often the engine is asked whether a NIC's interface was removed behind its back. */
const NIC_WATCH_MS = 2000;

export class IohvSupervisor {
  /** What the engine says of itself when it is asked. */
  readonly rows = new EngineRows(() => this.client);
  /** What the hosts say of their devices. */
  readonly reports: HostReports;
  private readonly options: IohvSupervisorOptions;
  private readonly keeper: EngineKeeper;
  private readonly reconciler: Reconciler<IohvStep>;
  private readonly up = new Map<string, boolean>();
  /** Hosts that the last engine served. */
  private readonly missed = new Set<string>();
  /** NICs whose interface is set up; they outlive engines. */
  private readonly readyNics = new Set<string>();
  private readonly dispatcher: Dispatcher;
  private readonly domainWatch: DomainWatch;
  private readonly stepWaiters = new StepWaiters();
  private readonly cuts = new CutWaiters();
  private keep: NativeDescriptorStore | undefined;
  /** The engine that was asked to use it, and the answer. */
  private keeping: { client: EngineClient; answer: Promise<unknown>; isKept: boolean } | undefined;
  private balanceTimer: NodeJS.Timeout | undefined;
  private nicWatch: NodeJS.Timeout | undefined;
  private hosts: readonly KnownHost[];
  private client: EngineClient | undefined;
  /** undefined while the engine is away or its state is being learnt. */
  private actual: IohvActual | undefined;

  constructor(options: IohvSupervisorOptions) {
    this.options = options;
    this.hosts = options.hosts;
    this.dispatcher = new Dispatcher(options.dispatch.policy, this.moves);
    this.domainWatch = new DomainWatch(options.log);
    this.reports = new HostReports(options.store, options.log);
    this.reconciler = new Reconciler({
      plan: (failed) => {
        this.noteServing();
        const stored = options.store.desired();
        const desired = { ...stored, cacheBytes: stored.cacheBytes ?? this.cacheSettings?.bytes ?? null };
        const placement = this.dispatcher.follow(desired);
        const guests = this.reports.guests(desired.nicAttachments);
        return this.actual && planIohv(desired, this.hosts, this.actual, failed, guests, placement);
      },
      execute: (step) => this.execute(step),
      isInBackground,
      onFailure: (step, reason, retryMs) => {
        options.log.warn('step.failed', { step: step.do, key: step.key, reason, retry_ms: retryMs });
        this.stepWaiters.noteStep();
      },
    });
    this.keeper = new EngineKeeper({
      ...options.engine,
      log: options.log,
      onUp: (client) => this.learn(client),
      onDown: () => {
        this.client = undefined;
        this.actual = undefined;
        for (const [host, isUp] of this.up) {
          if (isUp) {
            this.missed.add(host);
          }
        }
        this.up.clear();
        this.reconciler.reset();
      },
      onEvent: (event) => this.onEvent(event),
    });
  }

  start(): void {
    this.keep = this.options.openKeep?.(this.keepSocket);
    this.keeper.start();
    this.nicWatch = setInterval(() => void this.watchNics(), NIC_WATCH_MS).unref();
    if (this.moves) {
      const ms = Math.max(this.options.dispatch.rebalanceMs, REBALANCE_MS_MIN);
      this.balanceTimer = setInterval(() => void this.balance(), ms).unref();
    }
  }

  /** Whether volumes move by themselves. */
  private get moves(): boolean {
    const { policy, rebalanceMs } = this.options.dispatch;
    return isOnline(policy) && rebalanceMs > 0;
  }

  /** leave: the engines go on, for the next supervisor. */
  async stop(leave = false): Promise<void> {
    clearInterval(this.nicWatch);
    clearInterval(this.balanceTimer);
    this.reconciler.stop();
    if (!leave) {
      this.tellAbandoned();
    }
    await this.keeper.stop(leave);
    this.keep?.close();
  }

  /** What killed engines left is in our memory until volumes take it up, and these never could. */
  private tellAbandoned(): void {
    const { store, log } = this.options;
    const isAbandoned = ({ name, kind }: Volume) =>
      kind === 'file' && !this.isVolumeOpen(name) && this.failureOf(volumeKey(name)) !== undefined;
    const names = store
      .desired()
      .volumes.filter(isAbandoned)
      .map(({ name }) => name);
    if (names.length > 0) {
      log.error('cache.abandoned', { volumes: names.join(' ') });
    }
  }

  private get runDir(): string {
    return dirname(this.options.engine.filesPrefix);
  }

  private get keepSocket(): string {
    return `${this.runDir}/iohv-keep.sock`;
  }

  /** Where a checkpointing program cuts and commits: see native/loop/domain_socket.c. Short, whatever the name is. */
  domainSocketOf({ id }: Pick<Domain, 'id'>): string {
    return `${this.runDir}/domain-${id}.sock`;
  }

  /**
   * Should this engine die, the next one finds what its cache had not written out, and what its protection domains held.
   * No volume and no domain is opened before it has heard what its predecessors left. One of an earlier version that does
   * not know the command leaves nothing.
   */
  private keepMemory(client: EngineClient): Promise<unknown> {
    if (this.keeping?.client !== client) {
      const answer = orIfUnknown(client.request('keep', { path: this.keepSocket }), { devices: [] });
      const keeping = { client, answer, isKept: false };
      this.keeping = keeping;
      answer.then(
        () => {
          keeping.isKept = true;
        },
        () => {
          this.keeping = this.keeping === keeping ? undefined : this.keeping; // to be tried again
        },
      );
    }
    return this.keeping.answer;
  }

  private isKept(client: EngineClient): boolean {
    return this.keep === undefined || (this.keeping?.client === client && this.keeping.isKept);
  }

  private async assertKept(client: EngineClient): Promise<void> {
    try {
      await (this.isKept(client) || this.keepMemory(client));
    } catch (error) {
      const what = `the engine cannot ask for what the one before it had not written out (${messageOf(error)})`;
      throw client === this.client ? new Error(`${what}; a restart of the I/O hypervisor gives that up`) : error;
    }
  }

  /** Throws engine_unavailable, engine_busy, engine_upgrade_failed. */
  upgradeEngine(): Promise<UpgradeResult> {
    return this.keeper.upgrade();
  }

  get knownHosts(): readonly KnownHost[] {
    return this.hosts;
  }

  get engineLog(): string {
    return this.keeper.logPath;
  }

  engineStatus(): EngineStatus {
    return this.keeper.status();
  }

  /** The list of hosts was read again. */
  setHosts(hosts: readonly KnownHost[]): void {
    this.hosts = hosts;
    this.reconciler.trigger();
  }

  /**
   * The desired state changed. Resolves when the engine follows it as far as it can, when the engine is not to
   * be expected soon, or after timeoutMs.
   */
  async apply(timeoutMs: number): Promise<void> {
    const { state } = this.keeper.status();
    if (state === 'starting' || state === 'running') {
      await this.reconciler.settled(timeoutMs);
    }
  }

  /** Whether `isDone` came true, now or behind a step, before timeoutMs have passed. */
  until(isDone: () => boolean, timeoutMs: number): Promise<boolean> {
    this.reconciler.trigger();
    return this.stepWaiters.until(isDone, timeoutMs);
  }

  failureOf(key: string): string | undefined {
    return this.reconciler.failureOf(key);
  }

  /** Storage errors of the volume since the engine opened it. */
  errorsOf(name: string): Pick<VolumeRow, 'errors' | 'lastError'> {
    return this.actual?.volumes.get(name) ?? { errors: 0, lastError: null };
  }

  isVolumeOpen(name: string): boolean {
    return this.actual?.volumes.has(name) ?? false;
  }

  isDomainOpen(id: number): boolean {
    return this.actual?.domains.has(id) ?? false;
  }

  isNicReady(name: string): boolean {
    return this.readyNics.has(name);
  }

  isNicOpen(name: string): boolean {
    return [...(this.actual?.nics.values() ?? [])].some((port) => port.name === name);
  }

  /** Whether the engine may still write to the volume, also after a detach that it has not followed yet. */
  hasWriter(name: string): boolean {
    return [...(this.actual?.exports.values() ?? [])].some(({ volume, readOnly }) => volume === name && !readOnly);
  }

  hostIsUp(name: string): boolean {
    return this.up.get(name) ?? false;
  }

  /** The engine's counters. Throws engine_unavailable. */
  async stats(): Promise<Nested> {
    if (this.client === undefined) {
      throw refuse('engine_unavailable', 'the engine is not running, so there are no counters');
    }
    return this.client.request('stats', {});
  }

  /** What can be asked of the engine when it is there, and what it has is known. Throws engine_unavailable. */
  get engine(): EngineCaller {
    if (this.client === undefined || this.actual === undefined) {
      throw refuse('engine_unavailable', 'the engine is not running');
    }
    return this.client;
  }

  /** Whether the engine has the volume open, but not with its present head: a cut is under way. */
  isBehind(volume: Volume): boolean {
    const row = this.actual?.volumes.get(volume.name);
    return row !== undefined && depthOf(volume, row) > 0;
  }

  /**
   * The volume has got a new head, `content`, in the store. Resolves when the engine has followed, or one that has not
   * opened the volume will find the new head as it does. While there is no engine nobody knows: the one that was there
   * may live on, and refuse. Throws engine_refused: the store is as it was, or, after timeoutMs, nobody knows yet.
   */
  async followCut(name: string, content: string, timeoutMs: number): Promise<void> {
    const isCut = this.cuts.wait(name, content, timeoutMs);
    this.noteCuts();
    this.reconciler.trigger();
    await isCut;
  }

  /** Tells those whose volume has been cut, or is not open. One that was taken back is told by the step that failed. */
  private noteCuts(): void {
    if (this.actual === undefined) {
      return;
    }
    this.cuts.look((name, content) => {
      const volume = this.options.store.desired().volumes.find((other) => other.name === name);
      return volume === undefined || (volume.layers[0]?.content === content && !this.isBehind(volume));
    });
  }

  /** How many the configuration wants. */
  get workerCount(): number {
    const { config } = this.options.engine;
    return config.role === 'iohv' ? (config.iohv.workerCpus?.length ?? 1) : 1;
  }

  /** The worker that has the NIC open, if it is. */
  workerOfOpenNic(name: string): number | undefined {
    const port = [...(this.actual?.nics.values() ?? [])].find((nic) => nic.name === name);
    return port && (port.worker ?? 0);
  }

  /** Whether the volume is in the domain that it belongs to, or in none. */
  isVolumeInPlace(name: string, domain: number | undefined): boolean {
    return this.actual?.volumes.get(name)?.domain?.id === domain;
  }

  /** Where the volume is, or will be when it is open. */
  workerOf(volume: string): number {
    return this.actual?.volumes.get(volume)?.worker ?? this.dispatcher.workerOf(volume);
  }

  /** Moves a volume; it may move again when the policy is one that moves volumes. Ends as apply() does. */
  async moveVolume(name: string, worker: number, timeoutMs: number): Promise<void> {
    this.dispatcher.assign(name, worker);
    await this.apply(timeoutMs);
  }

  /** Looks at the workers for a moment. */
  workerInfos(): Promise<WorkerInfo[]> {
    return lookAtWorkers(
      () => this.rows.workers(),
      () => this.actual,
      this.options.engine.config,
    );
  }

  /** As the configuration says; undefined: without one. */
  get cacheSettings(): CacheSettings | undefined {
    const { config } = this.options.engine;
    return config.role === 'iohv' ? config.iohv.cache : undefined;
  }

  /**
   * What the engine holds of the volume's acknowledged writes is in its files afterwards. Throws engine_unavailable,
   * and EngineCommandError when the storage refuses.
   */
  async flushVolume(name: string): Promise<void> {
    await orIfUnknown(this.engine.request('volume.flush', { name }, FLUSH_TIMEOUT_MS), {});
  }

  /** Forgets what the cache holds of the volume's own content and need not keep. Throws engine_unavailable. */
  async dropCache(name: string): Promise<void> {
    if (this.client === undefined) {
      throw refuse('engine_unavailable', 'the engine is not running, so it caches nothing');
    }
    await this.client.request('volume.cache', { name, drop: true });
  }

  /**
   * What killed engines had not written out of volumes that are not open is nobody's from now on: bytes. Throws
   * engine_unavailable, engine_refused.
   */
  async giveUpKept(): Promise<number> {
    const { engine, client } = this;
    if (client !== undefined) {
      await this.assertKept(client).catch((error: unknown) => {
        throw refuse('engine_refused', messageOf(error));
      });
    }
    const { bytes } = await engine.request('keep.give-up', {});
    this.reconciler.retry();
    return bytes;
  }

  /** Whether the volume is open and on the cache. */
  isCached(name: string): boolean {
    return this.actual?.volumes.get(name)?.cache !== undefined;
  }

  private async balance(): Promise<void> {
    const { client, dispatcher } = this;
    if (client === undefined || dispatcher.count < 2) {
      return;
    }
    const { exports } = await client.request('loads', {}).catch(() => ({ exports: undefined }));
    const { actual } = this;
    if (exports === undefined || actual === undefined || client !== this.client) {
      return; // it died while we asked
    }
    if (dispatcher.balance(exports, actual.exports, actual.volumes)) {
      this.reconciler.trigger();
    }
  }

  private async watchNics(): Promise<void> {
    const { actual } = this;
    if (actual === undefined || actual.nics.size === 0) {
      return;
    }
    const rows = await this.rows.nics().catch(() => []); // asked again soon
    for (const { id, gone } of rows) {
      const port = actual.nics.get(id);
      if (gone && port?.gone === false) {
        actual.nics.set(id, { ...port, gone });
        this.reconciler.trigger();
      }
    }
  }

  /** Asks a new or adopted engine what it has. */
  private async learn(client: EngineClient): Promise<void> {
    this.client = client;
    await this.assertKept(client).catch((error: unknown) => {
      this.options.log.error('keep.failed', { reason: messageOf(error) });
    });
    const [{ workers = 1 }, hosts, volumes, exports, nics, cache, domains] = await Promise.all([
      client.request('ping', {}),
      client.request('hosts', {}),
      client.request('volume.list', {}),
      client.request('export.list', {}),
      listNics(client),
      listCache(client),
      listDomains(client),
    ]);
    this.actual = {
      hosts: new Map(hosts.map(({ name, keyId }) => [name, keyId])),
      volumes: new Map(volumes.map((row) => [row.name, row])),
      exports: new Map(exports.map((row) => [row.id, row])),
      nics: new Map(nics.map(({ stats: _, ...port }) => [port.id, port])),
      domains: new Map(domains.map((row) => [row.id, row])),
      readyNics: this.readyNics,
      documents: new Map(),
      cacheBytes: cache.bytes,
    };
    this.dispatcher.adopt(workers, volumes, nics);
    for (const { name, lastError } of volumes.filter((row) => row.flushFailed)) {
      this.options.store.setFault(name, lastError === null ? 'a flush failed' : faultOf(lastError));
    }
    for (const { name, up, report } of hosts) {
      this.up.set(name, up);
      if (report !== null) {
        this.takeReport(name, report);
      }
    }
    this.options.log.info('engine.learnt', {
      hosts: hosts.length,
      volumes: volumes.length,
      exports: exports.length,
      nics: nics.length,
    });
    this.reconciler.reset();
    this.noteCuts();
  }

  /** Every host is admitted, and those are back that were there before. */
  private noteServing(): void {
    const { actual, keeper, hosts, up } = this;
    const isBack = ({ name }: KnownHost) => actual?.hosts.has(name) && (up.get(name) || !this.missed.has(name));
    if (keeper.isBlackout && actual !== undefined && hosts.every(isBack)) {
      this.missed.clear();
      keeper.served();
    }
  }

  private async execute(step: IohvStep): Promise<void> {
    const { actual, client } = this;
    if (actual === undefined || client === undefined) {
      return;
    }
    const { store, net, log } = this.options;
    if ((step.do === 'volume.open' || step.do === 'domain.open') && !this.isKept(client)) {
      await this.assertKept(client);
    }
    try {
      await executeIohv(step, client, store, actual, net, log, (domain) => this.domainSocketOf(domain));
    } catch (error) {
      if (step.do === 'volume.cut' && error instanceof EngineCommandError) {
        this.cuts.fail(step.name, error.message);
      }
      throw error;
    }
    if (!isInBackground(step)) {
      log.info('step.done', { step: step.do, key: step.key });
    }
    this.noteCuts();
    this.stepWaiters.noteStep();
  }

  private onEvent(event: EngineEvent): void {
    const { log } = this.options;
    switch (event.event) {
      case 'host.up':
        this.up.set(event.data.host, true);
        log.info('host.up', { host: event.data.host });
        this.reconciler.trigger();
        return;
      case 'host.down':
        this.up.set(event.data.host, false);
        log.warn('host.down', event.data);
        return;
      case 'link.up':
        log.info('link.up', event.data);
        return;
      case 'link.down':
        log.warn('link.down', event.data);
        return;
      case 'port.up':
        log.info('port.up', event.data);
        return;
      case 'port.down':
        log.warn('port.down', event.data);
        return;
      case 'volume.error':
        this.takeError(event.data);
        return;
      case 'volume.lost':
        this.takeLoss(event.data);
        return;
      case 'cache.unreadable':
        log.error('cache.unreadable', event.data);
        return;
      case 'volume.moved':
        if (this.actual !== undefined) {
          const { volume, to, placement } = event.data;
          noteMoved(this.actual, volume, to, placement);
          this.dispatcher.noteMoved(volume, placement);
          this.reconciler.trigger();
        }
        return;
      case 'host.report':
        this.takeReport(event.data.host, event.data.document);
        return;
      case 'segment.intrusion':
        log.warn('segment.intrusion', event.data);
        return;
      default:
        this.domainWatch.tell(event); // or it is of the other role
    }
  }

  private takeError(error: VolumeError): void {
    const { volume, op, error: name, offset, count, flushFailed } = error;
    const fields = { volume, op, error: name, offset, count, flush_failed: flushFailed };
    this.options.log.warn('volume.error', fields);
    noteVolumeError(this.actual?.volumes ?? new Map(), error);
    if (flushFailed) {
      this.options.store.setFault(volume, faultOf(error));
    }
  }

  /** A guest that goes on would read what was there before it wrote. */
  private takeLoss({ volume, bytes }: { volume: string; bytes: number }): void {
    this.options.log.error('volume.lost', { volume, bytes });
    this.options.store.setFault(volume, `the storage refused ${bytes} bytes that the cache had to write out`);
  }

  private takeReport(host: string, document: string): void {
    if (this.reports.take(host, document)) {
      this.reconciler.trigger(); // a guest may have negotiated other features
    }
  }
}
