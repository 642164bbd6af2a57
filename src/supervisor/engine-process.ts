// One engine process, as the supervisor that has claimed it sees it.
//
// The kernel closes a process's descriptors when the last of its threads has ended. So a connection that ends
// with its process, or a socket that refuses connections, proves that no thread of the engine runs any more;
// its core can do nothing to volumes or guests but what it gave to the kernel before.
import { readdirSync, readFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { errnoOf } from '../errors.js';
import { EngineClient } from './engine-client.js';
import type { EngineConfig, PingResult } from './protocol.js';

/** An engine that hangs does not answer its new supervisor. */
const CLAIM_TIMEOUT_MS = 10_000;
/** Request buffers of any size are allocated meanwhile. */
const ACTIVATE_TIMEOUT_MS = 30_000;
const STOP_SLOW_MS = 10_000;
const PING_INTERVAL_MS = 5000;
/** So many pings in a row without an answer, and the engine is taken for hung. */
const PINGS_MISSED_MAX = 6;

export class EngineProcess {
  readonly socket: string;
  readonly client: EngineClient;
  private known: PingResult;

  private constructor(socket: string, client: EngineClient, known: PingResult) {
    this.socket = socket;
    this.client = client;
    this.known = known;
  }

  /** Claims the engine that listens on the socket. undefined: there is none, or it hung and was killed. */
  static async claim(socket: string): Promise<EngineProcess | undefined> {
    const client = await connect(socket);
    if (client === undefined) {
      return undefined;
    }
    try {
      return new EngineProcess(socket, client, await client.request('claim', {}, CLAIM_TIMEOUT_MS));
    } catch {
      client.close();
      for (const pid of pidsOf(socket)) {
        killQuietly(pid);
      }
      await untilRefused(socket);
      return undefined;
    }
  }

  /** What it said about itself last: when it was claimed, or activated since. */
  get info(): PingResult {
    return this.known;
  }

  get pid(): number {
    return this.known.pid;
  }

  /** What can be done for an activation before it. Rejects as activate() does. */
  async prepare(config: EngineConfig): Promise<void> {
    this.known = await this.client.request('prepare', { config }, ACTIVATE_TIMEOUT_MS);
  }

  /** Rejects with EngineCommandError when the engine could not, and is a standby as before. */
  async activate(config: EngineConfig): Promise<void> {
    this.known = await this.client.request('activate', { config }, ACTIVATE_TIMEOUT_MS);
  }

  /** Lets it end what it has under way. Resolves when its core has ended; calls onSlow, once, when that takes long. */
  async end(onSlow: () => void): Promise<void> {
    const timer = setTimeout(onSlow, STOP_SLOW_MS);
    const answered = this.client.request('stop', {}, 0).catch(() => this.client.closed); // it may close instead
    await Promise.race([answered, this.client.closed]);
    clearTimeout(timer);
  }

  /** At once. The process has ended when `client.closed` resolves. */
  kill(): void {
    killQuietly(this.pid);
  }
}

/** Asks the engine for signs of life and kills it when there are none. Ends when the caller clears the interval. */
export function watchEngine(engine: EngineProcess, onHung: () => void): NodeJS.Timeout {
  let missed = 0;
  return setInterval(() => {
    engine.client.request('ping', {}, PING_INTERVAL_MS).then(
      () => {
        missed = 0;
      },
      () => {
        missed++;
        if (missed === PINGS_MISSED_MAX) {
          onHung();
          engine.kill();
        }
      },
    );
  }, PING_INTERVAL_MS);
}

/** undefined when nobody listens. */
async function connect(socket: string): Promise<EngineClient | undefined> {
  try {
    return await EngineClient.connect(socket);
  } catch (error) {
    if (['ENOENT', 'ECONNREFUSED', 'ECONNRESET'].includes(errnoOf(error))) {
      return undefined;
    }
    throw error;
  }
}

async function untilRefused(socket: string): Promise<void> {
  for (;;) {
    const client = await connect(socket);
    if (client === undefined) {
      return;
    }
    await client.closed; // a killed process closes it
  }
}

/** Processes that were started with this socket: how to find an engine that says nothing. */
function pidsOf(socket: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && argumentsOf(name).includes(socket))
    .map(Number)
    .filter((pid) => pid !== process.pid);
}

function argumentsOf(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return []; // it has just ended
  }
}

/** Only for engines that we hold a connection to, or have just found: so the number is surely its own. */
function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has just ended by itself
  }
}

/** Sets the niceness of all threads of a process; without the right to do so, nothing changes. */
export function reniceThreads(pid: number, niceness: number): void {
  try {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      setPriority(Number(thread), niceness);
    }
  } catch {
    // it has just ended, or we are not root: then it has never been another one
  }
}
