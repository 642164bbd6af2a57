// Cuts and commits a domain on a clock, as a checkpointing mechanism does, but makes no checkpoints: nothing could
// resume from these epochs. For tests and measuring.
//
// It outlives the engine: when the connection ends it connects again, and goes on. An epoch whose commit it never heard
// of is committed with the next one.
import { setTimeout as sleep } from 'node:timers/promises';
import { EpochClient, EpochError } from './epoch-client.js';

const RETRY_MS = 20;

export interface DriverOptions {
  socket: string;
  everyMs: number;
  /** Epochs; else until it is told to stop. */
  count?: number | undefined;
  /** Else the one that is current when it starts. It ends when another takes over. */
  generation?: number | undefined;
  /** With the last epoch that is committed. */
  onCommit?: (epoch: number) => void;
}

export interface DriverResult {
  /** Cut and committed. */
  epochs: number;
  /** Turns left out: the one before took longer, or the domain said `again`. */
  skipped: number;
  /** Cuts before which protection had been dropped. */
  unprotected: number;
  /** Connections after the first. */
  reconnects: number;
  /** Of a cut and its commit, microseconds. */
  mean_us: number;
  max_us: number;
}

export class EpochDriver {
  /** Rejects when it was fenced, or when the domain does not run. */
  readonly ended: Promise<DriverResult>;
  readonly #options: DriverOptions;
  readonly #stop = new AbortController();
  #result: DriverResult = {
    ...{ epochs: 0, skipped: 0, unprotected: 0, reconnects: 0 },
    ...{ mean_us: 0, max_us: 0 },
  };

  private constructor(options: DriverOptions, client: EpochClient, generation: number) {
    this.#options = options;
    this.ended = this.#run(client, generation);
    this.ended.catch(() => {}); // whoever waits for it hears
  }

  /** Connects; nobody is waited for. */
  static async start(options: DriverOptions): Promise<EpochDriver> {
    const client = await EpochClient.connect(options.socket);
    return new EpochDriver(options, client, options.generation ?? (await client.status()).generation);
  }

  /** Ends it after the turn that is under way. */
  stop(): Promise<DriverResult> {
    this.#stop.abort();
    return this.ended;
  }

  async #run(first: EpochClient, generation: number): Promise<DriverResult> {
    let client: EpochClient | undefined = first;
    const { everyMs, count = Number.POSITIVE_INFINITY } = this.#options;
    let next = performance.now() + everyMs;
    try {
      while (this.#result.epochs < count && !this.#stop.signal.aborted) {
        next = await this.#waitForTurn(next);
        client ??= await this.#connectAgain();
        if (client !== undefined && !(await this.#turn(client, generation))) {
          client = undefined;
        }
      }
    } finally {
      await client?.close();
    }
    return this.#result;
  }

  /** Returns when the one after is due. */
  async #waitForTurn(due: number): Promise<number> {
    const { everyMs } = this.#options;
    await sleep(Math.max(0, due - performance.now()), undefined, { signal: this.#stop.signal }).catch(() => {});
    const missed = Math.max(0, Math.floor((performance.now() - due) / everyMs));
    this.#result.skipped += missed;
    return due + (missed + 1) * everyMs;
  }

  /** False: the connection has ended. */
  async #turn(client: EpochClient, generation: number): Promise<boolean> {
    const startedAt = performance.now();
    try {
      const { epoch, unprotected } = await client.cut(generation);
      this.#result.unprotected += unprotected ? 1 : 0;
      const { committed } = await client.commit(epoch, generation);
      this.#count((performance.now() - startedAt) * 1000);
      this.#options.onCommit?.(committed);
      return true;
    } catch (error) {
      if (error instanceof EpochError && error.code === 'again') {
        this.#result.skipped++;
        return true;
      }
      if (error instanceof EpochError && error.code === 'closed') {
        return false;
      }
      throw error;
    }
  }

  #count(us: number): void {
    const { epochs, mean_us, max_us } = this.#result;
    const mean = mean_us + (us - mean_us) / (epochs + 1);
    this.#result = { ...this.#result, epochs: epochs + 1, mean_us: mean, max_us: Math.max(max_us, us) };
  }

  /** Undefined when it was told to stop. */
  async #connectAgain(): Promise<EpochClient | undefined> {
    while (!this.#stop.signal.aborted) {
      try {
        const client = await EpochClient.connect(this.#options.socket);
        this.#result.reconnects++;
        return client;
      } catch {
        await sleep(RETRY_MS); // the engine is not there yet
      }
    }
    return undefined;
  }
}
