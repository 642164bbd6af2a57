// One engine from standby to its end: what EngineState in supervisor/protocol.ts says, as commands.
import { messageOf } from '../errors.js';
import type { Addon, NativeConfig, NativeEngine } from '../native/addon.js';
import type { EngineConfig, EngineEvent, EngineState, PingResult } from '../supervisor/protocol.js';
import { type Nested, sumCounters } from '../telemetry/metrics.js';
import { Coalescer } from './coalescer.js';
import { failure, findHandler, type Handler, type Handlers, HostCommands, nativeConfigs } from './commands.js';
import { toEngineEvent } from './features.js';
import { settingsOf } from './identity.js';
import { IohvCommands, isOfEngine } from './iohv-commands.js';

/** A host may report as often as it likes; the supervisor hears of its last report this often. */
const REPORT_INTERVAL_MS = 100;

export interface EngineLifeOptions {
  addon: Addon;
  version: string;
  build: string;
  broadcast(event: EngineEvent): void;
  /** The core has ended; the process shall follow when the answer has left. */
  onStopped(): void;
}

export class EngineLife {
  private readonly options: EngineLifeOptions;
  private readonly startedAt = Date.now();
  private readonly reports = new Coalescer(REPORT_INTERVAL_MS);
  private state: EngineState = 'standby';
  private activeSince: number | null = null;
  private begunAt = 0;
  private settings: string | null = null;
  /** Its workers; one at a host. */
  private engines: NativeEngine[] = [];
  private commands: IohvCommands | HostCommands | undefined;

  constructor(options: EngineLifeOptions) {
    this.options = options;
  }

  get isStandby(): boolean {
    return this.state === 'standby';
  }

  /** The commands of a standby, and once it is active those of its role. */
  find(cmd: string): Handler | undefined {
    const ofRole = this.state === 'standby' ? {} : (this.commands?.handlers ?? {});
    return findHandler(this.handlers, cmd) ?? findHandler(ofRole, cmd);
  }

  stop(): void {
    if (this.state === 'stopped') {
      return;
    }
    this.state = 'stopped';
    this.reports.stop();
    for (const engine of this.engines) {
      engine.halt(); // the end of the process closes the ports: a successor need not wait for that
    }
    this.options.onStopped();
  }

  private readonly handlers: Handlers = {
    ping: () => this.identity(),
    claim: () => this.identity(),
    prepare: ({ config }) => this.prepare(config),
    activate: ({ config }) => this.activate(config),
    stats: async () => {
      const [first = {}, ...others] = await Promise.all(this.running().map((engine) => engine.submit('stats', {})));
      return others.reduce(sumCounters, first);
    },
    workers: () => Promise.all(this.running().map((engine) => this.statsOf(engine))),
    drain: async (args) => {
      const engines = this.running();
      this.state = 'drained';
      const ends = await Promise.all(engines.map((engine) => engine.submit('drain', args)));
      return { inFlight: ends.reduce((sum, { inFlight }) => sum + inFlight, 0) };
    },
    stop: () => {
      this.stop();
      return {};
    },
  };

  /** With the time since it began, against which its sleep counts. */
  private async statsOf(engine: NativeEngine): Promise<Nested> {
    const stats = await engine.submit('stats', {});
    const elapsedMs = Math.round(performance.now() - this.begunAt);
    return { ...stats, loop: { ...(stats.loop as Nested), elapsedMs } };
  }

  private identity(): PingResult {
    const { state, startedAt, activeSince, settings } = this;
    const { version, build } = this.options;
    const port = this.engines[0]?.port() ?? { mac: null, mtu: null };
    const workers = this.engines.length;
    return { state, pid: process.pid, version, build, startedAt, activeSince, settings, workers, ...port };
  }

  private prepare(config: EngineConfig): PingResult {
    if (this.state !== 'standby') {
      throw failure('EALREADY', `this engine is ${this.state}`);
    }
    const settings = settingsOf(config);
    if (this.settings === settings) {
      return this.identity();
    }
    this.forget();
    try {
      for (const native of nativeConfigs(config)) {
        this.engines.push(this.open(native));
      }
      this.commands =
        config.role === 'iohv'
          ? new IohvCommands(this.engines, this.options.broadcast, config.iohv.cache?.bytes)
          : new HostCommands(this.engines[0] as NativeEngine);
    } catch (error) {
      this.forget();
      throw failure('EIO', messageOf(error));
    }
    this.settings = settings;
    return this.identity();
  }

  private open(config: NativeConfig): NativeEngine {
    const { Engine } = this.options.addon;
    return new Engine({ ...config, paused: true }, (event) => this.onEvent(toEngineEvent(event), config.worker));
  }

  private activate(config: EngineConfig): PingResult {
    this.prepare(config);
    try {
      for (const engine of this.engines) {
        engine.begin();
      }
    } catch (error) {
      this.forget();
      throw failure('EIO', messageOf(error));
    }
    this.state = 'active';
    this.activeSince = Date.now();
    this.begunAt = performance.now();
    return this.identity();
  }

  /** What was prepared and will not be used. */
  private forget(): void {
    for (const engine of this.engines) {
      engine.stop();
    }
    this.engines = [];
    this.commands = undefined;
    this.settings = null;
  }

  private running(): readonly NativeEngine[] {
    if (this.state === 'standby') {
      throw failure('EAGAIN', 'this engine is a standby');
    }
    return this.engines;
  }

  private onEvent(event: EngineEvent, worker: number): void {
    if (!isOfEngine(event, worker)) {
      return;
    }
    this.commands?.observe(event);
    const pass = () => this.options.broadcast(event);
    if (event.event === 'host.report') {
      this.reports.offer(event.data.host, pass);
    } else {
      pass();
    }
  }
}
