// One engine from standby to its end: what EngineState in supervisor/protocol.ts says, as commands.
import { messageOf } from '../errors.js';
import type { Addon, NativeEngine } from '../native/addon.js';
import type { EngineConfig, EngineEvent, EngineState, PingResult } from '../supervisor/protocol.js';
import { Coalescer } from './coalescer.js';
import { findHandler, type Handler, type Handlers, HostCommands, IohvCommands, nativeConfig } from './commands.js';
import { toEngineEvent } from './features.js';
import { settingsOf } from './identity.js';

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
  private settings: string | null = null;
  private engine: NativeEngine | undefined;
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
    this.engine?.halt(); // the end of the process closes the ports: a successor need not wait for that
    this.options.onStopped();
  }

  private readonly handlers: Handlers = {
    ping: () => this.identity(),
    claim: () => this.identity(),
    prepare: ({ config }) => this.prepare(config),
    activate: ({ config }) => this.activate(config),
    stats: () => this.running().submit('stats', {}),
    drain: async (args) => {
      const engine = this.running();
      this.state = 'drained';
      return engine.submit('drain', args);
    },
    stop: () => {
      this.stop();
      return {};
    },
  };

  private identity(): PingResult {
    const { state, startedAt, activeSince, settings } = this;
    const { version, build } = this.options;
    const port = this.engine?.port() ?? { mac: null, mtu: null };
    return { state, pid: process.pid, version, build, startedAt, activeSince, settings, ...port };
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
    const { Engine } = this.options.addon;
    try {
      this.engine = new Engine({ ...nativeConfig(config), paused: true }, (event) =>
        this.onEvent(toEngineEvent(event)),
      );
    } catch (error) {
      throw failure('EIO', messageOf(error));
    }
    this.settings = settings;
    this.commands = config.role === 'iohv' ? new IohvCommands(this.engine) : new HostCommands(this.engine);
    return this.identity();
  }

  private activate(config: EngineConfig): PingResult {
    this.prepare(config);
    try {
      this.engine?.begin();
    } catch (error) {
      this.forget();
      throw failure('EIO', messageOf(error));
    }
    this.state = 'active';
    this.activeSince = Date.now();
    return this.identity();
  }

  /** What was prepared and will not be used. */
  private forget(): void {
    this.engine?.stop();
    this.engine = undefined;
    this.commands = undefined;
    this.settings = null;
  }

  private running(): NativeEngine {
    if (this.engine === undefined || this.state === 'standby') {
      throw failure('EAGAIN', 'this engine is a standby');
    }
    return this.engine;
  }

  private onEvent(event: EngineEvent): void {
    this.commands?.observe(event);
    const pass = () => this.options.broadcast(event);
    if (event.event === 'host.report') {
      this.reports.offer(event.data.host, pass);
    } else {
      pass();
    }
  }
}

function failure(code: string, message: string): Error {
  return Object.assign(new Error(message), { code });
}
