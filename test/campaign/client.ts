// The verifying client (test/tools/verify_client) as the campaign sees it.
import type { Cleanup } from '../lab/cleanup.js';
import { LabError } from '../lab/errors.js';
import type { Outrigger } from '../lab/outrigger.js';
import { repoRoot } from '../lab/paths.js';
import { LabProcess } from '../lab/process.js';
import { within } from '../lab/wait.js';

const PROGRAM = `${repoRoot}/build-rel/tools/verify_client`;
const READY_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 120_000;

/** What happened between two calls of window(), or in all. */
export interface ClientWindow {
  completed: number;
  errors: number;
  mismatches: number;
  /** How often the socket was closed and opened again: QEMU would have noticed, too. */
  reconnects: number;
  /** The longest time without a request that ended, and when it began (as process.hrtime). */
  gap_ns: number;
  gap_begin_ns: number;
}

export interface ClientOptions {
  lab: Outrigger;
  socket: string;
  journal: string;
  seed: number;
  cleanup: Cleanup;
}

export class VerifyClient {
  readonly #process: LabProcess;
  #windows = 0;

  private constructor(started: LabProcess) {
    this.#process = started;
  }

  /** Resolves when it is connected; `onBad` hears of every error and mismatch at once. */
  static async start(options: ClientOptions, onBad: (line: string) => void): Promise<VerifyClient> {
    const { lab, socket, journal, seed, cleanup } = options;
    const args = ['--socket', socket, '--journal', journal, '--seed', `${seed}`];
    const started = new LabProcess({
      name: 'the verifying client',
      // Ahead of the guest, whose emulation would show as blackouts of the client.
      argv: lab.segment.wrap('host', ['nice', '-n', '-10', PROGRAM, ...args]),
      logFile: `${lab.dir}/client.log`,
      input: true,
      cleanup,
    });
    started.onLine((line) => line.startsWith('{"event":"bad"') && onBad(line));
    await started.waitForLine(/^{"event":"ready"/, READY_TIMEOUT_MS);
    return new VerifyClient(started);
  }

  /** Resolves when requests that were submitted after the call have ended: I/O flows. */
  async settle(timeoutMs: number): Promise<void> {
    await this.#ask('settle', '"event":"settled"', timeoutMs);
  }

  /** What happened since the last call. */
  async window(): Promise<ClientWindow> {
    const name = `${++this.#windows}`;
    const line = await this.#ask(`window ${name}`, `"event":"window","name":"${name}"`, READY_TIMEOUT_MS);
    return JSON.parse(line) as ClientWindow;
  }

  /** Ends the load, reads every block once more, and tells the totals. */
  async stop(): Promise<ClientWindow> {
    const line = await this.#ask('stop', '"event":"end"', STOP_TIMEOUT_MS);
    await within({ what: 'the verifying client to end', timeoutMs: STOP_TIMEOUT_MS }, this.#process.ended);
    return JSON.parse(line) as ClientWindow;
  }

  async #ask(command: string, answer: string, timeoutMs: number): Promise<string> {
    const next = new Promise<string>((resolve, reject) => {
      const stop = this.#process.onLine((line) => {
        if (line.includes(answer)) {
          stop();
          resolve(line);
        }
      });
      this.#process.ended.then((status) => {
        reject(new LabError(`the verifying client ended with status ${status}\n${this.#process.tail()}`));
      }, reject);
    });
    this.#process.write(`${command}\n`);
    return within({ what: `the verifying client to answer "${command}"`, timeoutMs }, next);
  }
}
