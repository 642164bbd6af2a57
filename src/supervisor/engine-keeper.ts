// Keeps one engine active, another one ready, and stays connected to both.
//
// An engine is a process of its own, so neither side dies with the other; what the supervisor finds when it
// starts is in engine-scan.ts. Whether an engine lives is asked of its socket (engine-process.ts): only when
// the socket of the active one is refused, or the active one has said that its core has ended, is another one
// activated. So there are never two.
//
//   the active one dies          the standby is activated; without one, a new process is started first
//   upgrade()                    a process of the present build is there, then: drain, stop, activate
//   nobody can be activated      again after a growing pause
import { mkdirSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { settingsOf } from '../engine/identity.js';
import { messageOf, refuse } from '../errors.js';
import type { Logger } from '../telemetry/log.js';
import { Blackout } from './blackout.js';
import { giveBirth } from './engine-birth.js';
import type { EngineClient } from './engine-client.js';
import type { EngineLauncher } from './engine-launcher.js';
import { EngineProcess, watchEngine } from './engine-process.js';
import { EngineSockets } from './engine-scan.js';
import type { EngineConfig, EngineEvent } from './protocol.js';
import { Standby, type StandbyStatus } from './standby.js';

export interface EngineKeeperOptions {
  config: EngineConfig;
  launcher: EngineLauncher;
  /** RUN_DIR/ROLE-engine: the start of the names of the engines' sockets. */
  filesPrefix: string;
  /** Whether to keep another engine ready. */
  standby: boolean;
  /** The build that a process started now would run. */
  presentBuild(): string;
  log: Logger;
  /**
   * Connected to a new or adopted engine: ask it what it has. Events that come meanwhile are newer than its
   * answers and are delivered afterwards. When it rejects, the connection is given up and made again.
   */
  onUp(client: EngineClient): Promise<void>;
  onEvent(event: EngineEvent): void;
  onDown(reason: string): void;
  /** Another supervisor has claimed the engine: this one must not touch anything any more. */
  onSuperseded(): void;
}

export interface EngineRow {
  pid: number;
  state: 'active' | 'standby';
  version: string;
  build: string;
  /** A process started now would run the same. */
  isPresent: boolean;
  /** ms since the epoch: activated, or started when it is a standby. */
  since: number;
  socket: string;
}

export interface EngineStatus {
  state: 'starting' | 'running' | 'waiting' | 'stopped';
  pid: number | null;
  /** ms since the epoch: of its activation. */
  startedAt: number | null;
  mac: string | null;
  mtu: number | null;
  /** Engines that this supervisor has lost so far. */
  deaths: number;
  lastError: string;
  standby: StandbyStatus['state'];
  /** From the end of an engine to the service of the next one; null before there was one. */
  lastBlackoutMs: number | null;
  rows: EngineRow[];
}

export interface UpgradeResult {
  from: EngineRow;
  to: EngineRow;
  /** null: not over within the time that an upgrade waits. */
  blackoutMs: number | null;
}

/** An engine that lived this long is not in a crash loop. */
const STABLE_MS = 1000;
/** The wait before the next start, by the number of short-lived engines in a row: the first ones cost none. */
const BACKOFF_MS = [0, 0, 0, 250, 500, 1000, 2000, 5000, 10_000];
/** What has not ended then is taken up again by the next engine. */
const DRAIN_MS = 10;
const UNLEARNABLE_PAUSE_MS = 250;
const DRAIN_TIMEOUT_MS = 2000;
const RESTORE_TIMEOUT_MS = 20_000;

export class EngineKeeper {
  private readonly options: EngineKeeperOptions;
  private readonly sockets: EngineSockets;
  private readonly standby: Standby;
  private readonly stopping = new AbortController();
  private readonly blackout = new Blackout();
  private active: EngineProcess | undefined;
  /** Takes the place of the active engine, whose end is not a death then. */
  private successor: EngineProcess | undefined;
  private upgrading: Promise<UpgradeResult> | undefined;
  private leaving = false;
  private running: Promise<void> | undefined;
  private state: EngineStatus['state'] = 'starting';
  private deaths = 0;
  private quickDeaths = 0;
  private lastError = '';

  constructor(options: EngineKeeperOptions) {
    this.options = options;
    this.sockets = new EngineSockets(options.filesPrefix);
    const { standby: enabled, log } = options;
    const birth = (niceness: number, onLaunched: (pid: number | null) => void) => this.birth(niceness, onLaunched);
    this.standby = new Standby({ enabled, log, birth });
  }

  start(): void {
    mkdirSync(dirname(this.options.filesPrefix), { recursive: true });
    this.running = this.run();
  }

  status(): EngineStatus {
    const { active, state } = this;
    const info = active?.info;
    const standby = this.standby.status();
    const rows = [active, standby.engine].filter((engine) => engine !== undefined).map((engine) => this.rowOf(engine));
    return {
      state,
      pid: info?.pid ?? null,
      startedAt: info?.activeSince ?? null,
      mac: info?.mac ?? null,
      mtu: info?.mtu ?? null,
      deaths: this.deaths,
      lastError: this.lastError,
      standby: standby.state,
      lastBlackoutMs: this.blackout.lastMs,
      rows,
    };
  }

  get logPath(): string {
    return this.options.launcher.log;
  }

  /** What the last engine did is done again: called by the owner of this keeper whenever that may be so. */
  served(): void {
    if (!this.isBlackout) {
      return;
    }
    const ms = this.blackout.end();
    if (ms !== undefined) {
      this.options.log.info('engine.serving', { pid: this.active?.pid, blackout_ms: Math.round(ms) });
    }
  }

  /** Whether served() is to be called. One that is being replaced may still serve: that is not meant. */
  get isBlackout(): boolean {
    return this.blackout.isOn && this.successor === undefined;
  }

  /** Ends the engines and waits until they are gone. `leave`: lets them go on, for the next supervisor. */
  async stop(leave = false): Promise<void> {
    this.leaving = leave;
    this.stopping.abort();
    const { active } = this;
    const standby = this.standby.stop(leave);
    if (active !== undefined) {
      await this.letGo(active);
    }
    await Promise.all([standby, this.running, this.upgrading?.catch(() => {})]);
    this.state = 'stopped';
  }

  /**
   * Replaces the engine by one of the present build. Resolves when that one serves. Throws engine_unavailable,
   * engine_busy, engine_upgrade_failed; also then there is an engine, or one is being started.
   */
  async upgrade(): Promise<UpgradeResult> {
    const old = this.active;
    if (old === undefined || this.state !== 'running') {
      throw refuse('engine_unavailable', 'there is no running engine to upgrade');
    }
    if (this.upgrading !== undefined) {
      throw refuse('engine_busy', 'an upgrade is under way');
    }
    this.upgrading = this.upgradeFrom(old).finally(() => {
      this.upgrading = undefined;
      this.standby.want();
    });
    return this.upgrading;
  }

  private async upgradeFrom(old: EngineProcess): Promise<UpgradeResult> {
    const fresh = await this.freshEngine().catch((error: unknown) => {
      throw refuse('engine_upgrade_failed', `the running engine was left alone: ${messageOf(error)}`);
    });
    if (this.active !== old || this.stopping.signal.aborted) {
      await this.discard(fresh);
      throw refuse('engine_upgrade_failed', 'the engine ended by itself meanwhile and was replaced');
    }
    return this.replace(old, fresh);
  }

  private async replace(old: EngineProcess, fresh: EngineProcess): Promise<UpgradeResult> {
    const { log } = this.options;
    const from = this.rowOf(old);
    this.blackout.begin();
    const over = this.blackout.over(RESTORE_TIMEOUT_MS);
    this.successor = fresh;
    await old.client.request('drain', { ms: DRAIN_MS }, DRAIN_TIMEOUT_MS).catch((error: unknown) => {
      log.warn('engine.undrained', { pid: old.pid, reason: messageOf(error) });
    });
    await this.end(old);
    if (this.stopping.signal.aborted) {
      await this.dropSuccessor();
    }
    const blackoutMs = (await Promise.race([over, aborted(this.stopping.signal)])) ?? null;
    const { active } = this;
    if (active?.pid !== fresh.pid) {
      throw refuse('engine_upgrade_failed', `the new engine did not take over: ${this.lastError}`);
    }
    const to = this.rowOf(active);
    const rounded = blackoutMs === null ? null : Math.round(blackoutMs * 10) / 10;
    log.info('engine.upgraded', { from: from.build, to: to.build, pid: to.pid, blackout_ms: rounded });
    return { from, to, blackoutMs: rounded };
  }

  /** Nobody activates it any more; the next supervisor, if any, ends it as well as it could be used. */
  private async dropSuccessor(): Promise<void> {
    const { successor } = this;
    this.successor = undefined;
    if (successor !== undefined) {
      await this.discard(successor);
    }
  }

  /** A process of the present build that needs nothing more than to be activated. */
  private async freshEngine(): Promise<EngineProcess> {
    const { presentBuild, config } = this.options;
    let engine = await this.standby.take();
    if (engine !== undefined && engine.info.build !== presentBuild()) {
      await this.discard(engine);
      engine = undefined;
    }
    engine ??= await this.birth(0);
    try {
      await engine.prepare(config);
    } catch (error) {
      await this.discard(engine);
      throw error;
    }
    return engine;
  }

  private async run(): Promise<void> {
    const { signal } = this.stopping;
    let next = await this.adopt().catch(() => undefined); // rejects when we are stopping
    while (!signal.aborted) {
      try {
        next = await this.live(next ?? (await this.raise()));
      } catch (error) {
        next = undefined;
        this.lastError = messageOf(error);
        this.countFailure();
        if (!signal.aborted) {
          this.options.log.error('engine.start-failed', { reason: this.lastError });
        }
      }
      if (next === undefined && this.successor === undefined && !signal.aborted) {
        await this.backOff();
      }
    }
    if (next !== undefined) {
      await this.letGo(next); // found when we were stopping already
    }
  }

  /** The engine of a predecessor of ours; its standby is kept too. */
  private async adopt(): Promise<EngineProcess | undefined> {
    const { log, presentBuild } = this.options;
    const { active, standbys } = await this.untilTold(() => this.sockets.scan(log));
    try {
      const present = presentBuild();
      for (const standby of standbys) {
        const isPrepared = standby.info.settings !== null; // for an upgrade: it hears every frame
        if (standby.info.build !== present || isPrepared || !this.standby.offer(standby)) {
          await this.discard(standby);
        }
      }
    } catch (error) {
      log.error('engine.start-failed', { reason: messageOf(error) });
    }
    return active;
  }

  /** Makes a standby, or a new process, the active engine. */
  private async raise(): Promise<EngineProcess> {
    const { log, config } = this.options;
    const engine = this.successor ?? (await this.standby.take()) ?? (await this.birth(0));
    this.successor = undefined;
    try {
      await engine.activate(config);
    } catch (error) {
      await this.discard(engine); // so that it is not active after all
      throw new Error(`the engine could not be activated: ${messageOf(error)}`);
    }
    if (this.stopping.signal.aborted) {
      await this.letGo(engine);
      throw new Error('stopping');
    }
    log.info('engine.active', { pid: engine.pid, build: engine.info.build, after_ms: this.blackout.elapsedMs });
    return engine;
  }

  /** One active engine to its end. Resolves with it when only the connection ended, which starts anew. */
  private async live(engine: EngineProcess): Promise<EngineProcess | undefined> {
    const { log, onDown } = this.options;
    const { client, pid } = engine;
    this.state = 'starting';
    this.active = engine;
    const connectedAt = performance.now();
    log.info('engine.up', { pid, mac: engine.info.mac, mtu: engine.info.mtu });
    const watch = watchEngine(engine, () => log.error('engine.hung', { pid }));
    await this.introduce(engine);
    const reason = await client.closed;
    this.blackout.begin();
    clearInterval(watch);
    this.active = undefined;
    this.state = 'starting';
    onDown(reason);
    if (this.stopping.signal.aborted || this.successor !== undefined) {
      return undefined;
    }
    const again = await this.untilTold(() => EngineProcess.claim(engine.socket));
    if (again?.info.state === 'active') {
      this.blackout.cancel();
      return again;
    }
    if (again !== undefined) {
      await this.discard(again);
    }
    rmSync(engine.socket, { force: true });
    this.deaths++;
    this.quickDeaths = performance.now() - connectedAt < STABLE_MS ? this.quickDeaths + 1 : 0;
    this.lastError = `engine ${pid} ended: ${reason}`;
    log.error('engine.died', { pid, reason, deaths: this.deaths });
    return undefined;
  }

  /** As long as nobody can tell whether an engine lives, there must not be another one. */
  private async untilTold<T>(ask: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        this.lastError = messageOf(error);
        this.options.log.error('engine.unlearnable', { reason: this.lastError });
        await sleep(UNLEARNABLE_PAUSE_MS, undefined, { signal: this.stopping.signal });
      }
    }
  }

  private async introduce(engine: EngineProcess): Promise<void> {
    const { config, log, onUp, onEvent } = this.options;
    const { client } = engine;
    const early: EngineEvent[] = [];
    client.onEvent = (event) => this.filter(event, (other) => early.push(other));
    try {
      await onUp(client);
      early.forEach(onEvent);
    } catch (error) {
      await this.learnAgain(client, error);
      return;
    }
    client.onEvent = (event) => {
      try {
        this.filter(event, onEvent);
      } catch (error) {
        client.onEvent = (later) => this.filter(later, () => {});
        void this.learnAgain(client, error);
      }
    };
    this.state = 'running';
    this.standby.want();
    if (engine.info.settings !== settingsOf(config)) {
      log.warn('engine.replaced', { reason: 'the running engine was started with other settings' });
      this.upgrade().catch((error: unknown) => {
        this.lastError = messageOf(error);
        log.error('engine.start-failed', { reason: this.lastError });
      });
    }
  }

  /** Its owner failed on what the engine told it: what it knows of the engine is out of date. */
  private async learnAgain(client: EngineClient, error: unknown): Promise<void> {
    this.options.log.error('engine.unlearnable', { reason: messageOf(error) });
    await sleep(UNLEARNABLE_PAUSE_MS, undefined, { signal: this.stopping.signal }).catch(() => {});
    client.close();
  }

  private filter(event: EngineEvent, pass: (event: EngineEvent) => void): void {
    if (event.event !== 'superseded') {
      pass(event);
      return;
    }
    this.options.log.error('engine.superseded', { pid: this.active?.pid });
    this.lastError = 'another supervisor has taken over';
    void this.stop(true);
    this.options.onSuperseded();
  }

  private async backOff(): Promise<void> {
    const ms = BACKOFF_MS[Math.min(this.quickDeaths, BACKOFF_MS.length - 1)] ?? 0;
    if (ms === 0) {
      return;
    }
    this.state = 'waiting';
    this.options.log.error('engine.crash-loop', { deaths: this.quickDeaths, wait_ms: ms });
    await sleep(ms, undefined, { signal: this.stopping.signal }).catch(() => {});
  }

  private countFailure(): void {
    if (!this.stopping.signal.aborted) {
      this.deaths++;
      this.quickDeaths++;
    }
  }

  private birth(niceness: number, onLaunched?: (pid: number | null) => void): Promise<EngineProcess> {
    const { launcher, log } = this.options;
    return giveBirth({
      launcher,
      socket: this.sockets.next(),
      niceness,
      signal: this.stopping.signal,
      onLaunched: (pid) => {
        log.info('engine.started', { pid: pid ?? undefined, log: launcher.log });
        onLaunched?.(pid);
      },
    });
  }

  /**
   * An active engine, when we are stopping. That of an I/O hypervisor has as long as the storage takes for what its
   * cache has not written out: no other engine would take it up. Only one that hangs is killed.
   */
  private async letGo(engine: EngineProcess): Promise<void> {
    const { log, config } = this.options;
    if (this.leaving) {
      engine.client.close();
    } else if (config.role === 'iohv') {
      const watch = watchEngine(engine, () => log.error('engine.hung', { pid: engine.pid }));
      await this.end(engine, () => log.warn('engine.stop-slow', { pid: engine.pid }));
      clearInterval(watch);
    } else {
      await this.end(engine);
    }
  }

  /** Ends an active engine; what it has under way is finished. */
  private async end(engine: EngineProcess, onSlow = () => this.killSlow(engine)): Promise<void> {
    await engine.end(onSlow);
    engine.client.close();
    rmSync(engine.socket, { force: true });
  }

  private killSlow(engine: EngineProcess): void {
    this.options.log.error('engine.stop-timeout', { pid: engine.pid });
    engine.kill();
  }

  /** Ends an engine that holds nothing. */
  private async discard(engine: EngineProcess): Promise<void> {
    engine.kill();
    await engine.client.closed;
    rmSync(engine.socket, { force: true });
  }

  private rowOf({ info, socket }: EngineProcess): EngineRow {
    const { pid, state, version, build, startedAt, activeSince } = info;
    return {
      ...{ pid, version, build, socket, isPresent: build === this.options.presentBuild() },
      state: state === 'standby' ? 'standby' : 'active',
      since: activeSince ?? startedAt,
    };
  }
}

function aborted(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve(undefined);
    }
    signal.addEventListener('abort', () => resolve(undefined), { once: true });
  });
}
