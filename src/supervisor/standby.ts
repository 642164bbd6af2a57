// Keeps one engine that is ready to be activated, so that the death of the active one costs no start of a
// process. It is started at low priority when the active one has its work, and started again when it is used
// up or dies; one that keeps dying is tried after a growing pause.
import { messageOf } from '../errors.js';
import type { Logger } from '../telemetry/log.js';
import { type EngineProcess, reniceThreads, watchEngine } from './engine-process.js';

/** The active engine and its peers have the machine to themselves for so long. */
const START_DELAY_MS = 100;
const RETRY_MS = [0, 250, 1000, 5000, 30_000];
/** One that lived so long was not to blame for its end. */
const STABLE_MS = 10_000;
const STANDBY_NICENESS = 10;

export interface StandbyOptions {
  /** false: there is never one. */
  enabled: boolean;
  log: Logger;
  birth(niceness: number, onLaunched: (pid: number | null) => void): Promise<EngineProcess>;
}

export interface StandbyStatus {
  state: 'off' | 'none' | 'starting' | 'ready';
  engine: EngineProcess | undefined;
}

export class Standby {
  private readonly options: StandbyOptions;
  private engine: EngineProcess | undefined;
  private birth: Promise<EngineProcess | undefined> | undefined;
  /** The process that is being started. */
  private launched: number | null = null;
  private timer: NodeJS.Timeout | undefined;
  private failures = 0;
  private stopped = false;

  constructor(options: StandbyOptions) {
    this.options = options;
  }

  status(): StandbyStatus {
    const { engine, birth } = this;
    const state = !this.options.enabled ? 'off' : engine ? 'ready' : birth ? 'starting' : 'none';
    return { state, engine };
  }

  /** One that was found running. False when there is no use for it. */
  offer(engine: EngineProcess): boolean {
    if (this.engine !== undefined || !this.options.enabled || this.stopped) {
      return false;
    }
    this.keep(engine);
    return true;
  }

  /** Sees to it that there will be one. */
  want(): void {
    if (this.options.enabled && !this.stopped && !this.engine && !this.birth && !this.timer) {
      const pause = RETRY_MS[Math.min(this.failures, RETRY_MS.length - 1)] ?? 0;
      this.timer = setTimeout(() => {
        this.timer = undefined;
        this.start();
      }, START_DELAY_MS + pause);
    }
  }

  /** Takes the one that is ready, or the one that is on its way; undefined when there is none. */
  async take(): Promise<EngineProcess | undefined> {
    clearTimeout(this.timer);
    this.timer = undefined;
    const pid = this.engine?.pid ?? this.launched;
    if (pid !== null) {
      reniceThreads(pid, 0);
    }
    const engine = this.engine ?? (await this.birth);
    if (engine === undefined || this.engine !== engine) {
      return undefined;
    }
    this.engine = undefined;
    return engine;
  }

  /** Ends it, or lets it go so that the next supervisor finds it. */
  async stop(leave: boolean): Promise<void> {
    this.stopped = true;
    clearTimeout(this.timer);
    await this.birth;
    const { engine } = this;
    this.engine = undefined;
    if (leave) {
      engine?.client.close();
    } else {
      engine?.kill();
      await engine?.client.closed;
    }
  }

  private start(): void {
    this.birth = this.options
      .birth(STANDBY_NICENESS, (pid) => {
        this.launched = pid;
      })
      .then((engine) => {
        this.keep(engine);
        return engine;
      })
      .catch((error: unknown) => {
        this.failures++;
        this.options.log.warn('engine.standby-failed', { reason: messageOf(error) });
        return undefined;
      })
      .finally(() => {
        this.birth = undefined;
        this.launched = null;
        this.want();
      });
  }

  private keep(engine: EngineProcess): void {
    const { log } = this.options;
    const since = performance.now();
    this.engine = engine;
    log.info('engine.standby', { pid: engine.pid, build: engine.info.build });
    const watch = watchEngine(engine, () => log.error('engine.hung', { pid: engine.pid }));
    engine.client.closed.then((reason) => {
      clearInterval(watch);
      if (this.engine === engine) {
        this.engine = undefined;
        this.failures = performance.now() - since < STABLE_MS ? this.failures + 1 : 0;
        log.warn('engine.standby-failed', { pid: engine.pid, reason });
        this.want();
      }
    });
  }
}
