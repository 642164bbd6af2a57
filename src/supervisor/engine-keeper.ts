// Keeps one engine running and stays connected to it.
//
// The engine is a process of its own session with its output in a log file, so neither side dies with the
// other. Whether an engine lives is asked of its socket: the kernel closes a listening socket with its
// process, so "connection refused" proves that nobody is there and a new engine may be started, and a
// connection that is accepted is an engine to adopt, whoever started it. An engine that was started with
// other settings than the present ones is stopped and replaced.
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf, messageOf } from '../errors.js';
import type { Logger } from '../telemetry/log.js';
import { EngineClient } from './engine-client.js';
import type { EngineConfig, EngineEvent, PingResult } from './protocol.js';

export interface EngineKeeperOptions {
  config: EngineConfig;
  /** The engine's main module. */
  program: string;
  /** RUN_DIR/ROLE-engine: the names of configuration and log file without their endings. */
  filesPrefix: string;
  log: Logger;
  /**
   * Connected to a new or adopted engine: ask it what it has. Events that come meanwhile are newer than its
   * answers and are delivered afterwards. When it rejects, the connection is given up and made again.
   */
  onUp(client: EngineClient): Promise<void>;
  onEvent(event: EngineEvent): void;
  onDown(reason: string): void;
}

export interface EngineStatus {
  state: 'starting' | 'running' | 'waiting' | 'stopped';
  pid: number | null;
  startedAt: number | null;
  mac: string | null;
  mtu: number | null;
  /** Engines that this supervisor has lost so far. */
  deaths: number;
  lastError: string;
}

const CONNECT_TIMEOUT_MS = 20_000;
const CONNECT_RETRY_MS = 20;
/** An engine that lived this long is not in a crash loop. */
const STABLE_MS = 10_000;
/** The wait before the next start, by the number of short-lived engines in a row: the first costs none. */
const BACKOFF_MS = [0, 0, 250, 500, 1000, 2000, 5000, 10_000];
const PING_INTERVAL_MS = 5000;
/** So many pings in a row without an answer, and the engine is taken for hung. */
const PINGS_MISSED_MAX = 6;
const STOP_TIMEOUT_MS = 10_000;

export class EngineKeeper {
  private readonly options: EngineKeeperOptions;
  private readonly configFile: string;
  private readonly logFile: string;
  private readonly stopping = new AbortController();
  private client: EngineClient | undefined;
  private engine: PingResult | undefined;
  private running: Promise<void> | undefined;
  private state: EngineStatus['state'] = 'starting';
  private deaths = 0;
  private quickDeaths = 0;
  private lastError = '';

  constructor(options: EngineKeeperOptions) {
    this.options = options;
    this.configFile = `${options.filesPrefix}.json`;
    this.logFile = `${options.filesPrefix}.log`;
  }

  start(): void {
    this.running = this.run();
  }

  status(): EngineStatus {
    return {
      state: this.state,
      pid: this.engine?.pid ?? null,
      startedAt: this.engine?.startedAt ?? null,
      mac: this.engine?.mac ?? null,
      mtu: this.engine?.mtu ?? null,
      deaths: this.deaths,
      lastError: this.lastError,
    };
  }

  get logPath(): string {
    return this.logFile;
  }

  /** Ends the engine and waits until it is gone. */
  async stop(): Promise<void> {
    this.stopping.abort();
    if (this.client !== undefined && this.engine !== undefined) {
      await this.end(this.client, this.engine.pid);
    }
    await this.running;
    this.state = 'stopped';
  }

  private async run(): Promise<void> {
    while (!this.stopping.signal.aborted) {
      try {
        await this.live();
      } catch (error) {
        this.lastError = messageOf(error);
        this.options.log.error('engine.start-failed', { reason: this.lastError });
      }
      if (!this.stopping.signal.aborted) {
        await this.backOff();
      }
    }
  }

  /** One engine from adoption or birth to its end. */
  private async live(): Promise<void> {
    this.state = 'starting';
    const client = (await this.adopt()) ?? (await this.launch());
    this.client = client;
    let engine: PingResult;
    try {
      engine = await client.request('ping', {});
    } catch (error) {
      client.close();
      throw error;
    }
    if (this.stopping.signal.aborted) {
      await this.end(client, engine.pid);
      return;
    }
    this.engine = engine;
    const connectedAt = performance.now();
    const { log, onDown } = this.options;
    log.info('engine.up', { pid: engine.pid, mac: engine.mac, mtu: engine.mtu });
    const watch = this.watch(client, engine.pid);
    await this.introduce(client);
    const reason = await client.closed;
    clearInterval(watch);
    this.client = undefined;
    this.engine = undefined;
    this.state = 'starting';
    onDown(reason);
    if (!this.stopping.signal.aborted) {
      this.deaths++;
      this.quickDeaths = performance.now() - connectedAt < STABLE_MS ? this.quickDeaths + 1 : 0;
      this.lastError = `engine ${engine.pid} ended: ${reason}`;
      log.error('engine.died', { pid: engine.pid, reason, deaths: this.deaths });
    }
  }

  private async introduce(client: EngineClient): Promise<void> {
    const { log, onUp, onEvent } = this.options;
    const early: EngineEvent[] = [];
    client.onEvent = (event) => early.push(event);
    try {
      await onUp(client);
    } catch (error) {
      log.error('engine.unlearnable', { reason: messageOf(error) });
      client.close();
      return;
    }
    early.forEach(onEvent);
    client.onEvent = onEvent;
    this.state = 'running';
  }

  private async backOff(): Promise<void> {
    const ms = BACKOFF_MS[Math.min(this.quickDeaths, BACKOFF_MS.length - 1)] ?? 0;
    if (this.quickDeaths > 1) {
      this.state = 'waiting';
      this.options.log.error('engine.crash-loop', { deaths: this.quickDeaths, wait_ms: ms });
    }
    await sleep(ms, undefined, { signal: this.stopping.signal }).catch(() => {});
  }

  /** The engine that already listens, or undefined. */
  private async adopt(): Promise<EngineClient | undefined> {
    const client = await this.tryConnect();
    if (client === undefined || this.hasPresentSettings()) {
      return client;
    }
    this.options.log.warn('engine.replaced', { reason: 'the running engine was started with other settings' });
    const { pid } = await client.request('ping', {});
    await this.end(client, pid);
    return undefined;
  }

  private hasPresentSettings(): boolean {
    try {
      return readFileSync(this.configFile, 'utf8') === JSON.stringify(this.options.config);
    } catch {
      return false;
    }
  }

  private async tryConnect(): Promise<EngineClient | undefined> {
    try {
      return await EngineClient.connect(this.options.config.socket);
    } catch (error) {
      const code = errnoOf(error);
      if (code === 'ENOENT' || code === 'ECONNREFUSED') {
        return undefined;
      }
      throw error;
    }
  }

  private async launch(): Promise<EngineClient> {
    const { config, program, log } = this.options;
    mkdirSync(dirname(this.configFile), { recursive: true });
    rmSync(this.configFile, { force: true });
    writeFileSync(this.configFile, JSON.stringify(config), { mode: 0o600 });
    const output = openSync(this.logFile, 'a', 0o640);
    const child = spawn(process.execPath, [program, '--config', this.configFile], {
      detached: true,
      stdio: ['ignore', output, output],
    });
    closeSync(output);
    child.unref();
    const exited = exitOf(child);
    log.info('engine.started', { pid: child.pid, log: this.logFile });
    const deadline = performance.now() + CONNECT_TIMEOUT_MS;
    for (;;) {
      const client = await this.tryConnect();
      if (client !== undefined) {
        return client;
      }
      const exit = await Promise.race([exited, sleep(CONNECT_RETRY_MS)]);
      if (exit !== undefined) {
        this.countFailedStart();
        throw new Error(`the engine ended at its start (${exit}): ${this.lastWords()}`);
      }
      if (this.stopping.signal.aborted || performance.now() > deadline) {
        child.kill('SIGKILL');
        this.countFailedStart();
        throw new Error(`the engine did not listen on ${config.socket} within ${CONNECT_TIMEOUT_MS / 1000} s`);
      }
    }
  }

  private countFailedStart(): void {
    this.deaths++;
    this.quickDeaths++;
  }

  /** The end of the engine's log, where it says why it could not start. */
  private lastWords(): string {
    try {
      return readFileSync(this.logFile, 'utf8').trim().split('\n').slice(-3).join(' | ') || 'it said nothing';
    } catch (error) {
      return messageOf(error);
    }
  }

  private watch(client: EngineClient, pid: number): NodeJS.Timeout {
    let missed = 0;
    return setInterval(() => {
      client.request('ping', {}, PING_INTERVAL_MS).then(
        () => {
          missed = 0;
        },
        () => {
          missed++;
          if (missed >= PINGS_MISSED_MAX) {
            this.options.log.error('engine.hung', { pid });
            killQuietly(pid);
          }
        },
      );
    }, PING_INTERVAL_MS);
  }

  private async end(client: EngineClient, pid: number): Promise<void> {
    client.request('stop', {}, STOP_TIMEOUT_MS).catch(() => {}); // it may close before it answers
    const timer = setTimeout(() => {
      this.options.log.error('engine.stop-timeout', { pid });
      killQuietly(pid);
    }, STOP_TIMEOUT_MS);
    await client.closed;
    clearTimeout(timer);
  }
}

function exitOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(messageOf(error)));
    child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`));
  });
}

/** Kills an engine that we hold a connection to, so the number is surely its own. */
function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has just ended by itself
  }
}
