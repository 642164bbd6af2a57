// A long-running process of the lab: started in its own process group, its output kept in a log file and
// readable line by line, ended with everything it started.
import { type ChildProcess, spawn } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { createWriteStream, type WriteStream } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Cleanup } from './cleanup.js';
import type { Argv } from './command.js';
import { LabError } from './errors.js';
import { within } from './wait.js';

const TAIL_LINES = 40;

export interface LabProcessOptions {
  name: string;
  argv: Argv;
  logFile: string;
  /** It reads lines from its standard input: write() sends them. */
  input?: boolean;
  cleanup: Cleanup;
}

export class LabProcess {
  readonly name: string;
  readonly logFile: string;
  readonly #child: ChildProcess;
  readonly #log: WriteStream;
  readonly #lines = new EventEmitter<{ line: [string]; end: [] }>();
  readonly #tail: string[] = [];
  readonly ended: Promise<number>;
  #status: number | undefined;

  constructor({ name, argv, logFile, input = false, cleanup }: LabProcessOptions) {
    this.name = name;
    this.logFile = logFile;
    this.#lines.setMaxListeners(0);
    this.#log = createWriteStream(logFile, { flags: 'a' });
    const [program, ...args] = argv;
    this.#child = spawn(program, args, { stdio: [input ? 'pipe' : 'ignore', 'pipe', 'pipe'], detached: true });
    this.#child.stdin?.on('error', () => {}); // it has ended; whoever waits for it hears so
    cleanup.add(() => this.kill());
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      if (stream) {
        createInterface({ input: stream }).on('line', (line) => this.#take(line));
      }
    }
    this.ended = new Promise((resolve) => {
      const end = (status: number) => {
        this.#status = status;
        this.#log.end();
        this.#lines.emit('end');
        resolve(status);
      };
      this.#child.once('error', (error) => {
        this.#take(error.message);
        end(127);
      });
      this.#child.once('close', (code) => end(code ?? 128));
    });
  }

  /** The process itself: `ip netns exec` replaces itself with the command. */
  get pid(): number {
    if (this.#child.pid === undefined) {
      throw new LabError(`${this.name} did not start: ${this.tail()}`);
    }
    return this.#child.pid;
  }

  get isRunning(): boolean {
    return this.#status === undefined;
  }

  /** The last of what it printed. */
  tail(): string {
    return this.#tail.join('\n');
  }

  /** Returns what ends it. */
  onLine(listener: (line: string) => void): () => void {
    this.#lines.on('line', listener);
    return () => this.#lines.off('line', listener);
  }

  write(text: string): void {
    this.#child.stdin?.write(text);
  }

  /** Resolves with the first line that matches, of those kept from the past or any to come. */
  async waitForLine(pattern: RegExp, timeoutMs: number): Promise<string> {
    const past = this.#tail.find((line) => pattern.test(line));
    if (past !== undefined) {
      return past;
    }
    const match = new Promise<string>((resolve, reject) => {
      this.#lines.on('line', (line) => pattern.test(line) && resolve(line));
      this.#lines.once('end', () =>
        reject(
          new LabError(`${this.name} ended with status ${this.#status} before it printed ${pattern}\n${this.tail()}`),
        ),
      );
      if (!this.isRunning) {
        reject(new LabError(`${this.name} had ended with status ${this.#status}\n${this.tail()}`));
      }
    });
    return within({ what: `${this.name} to print ${pattern} (log: ${this.logFile})`, timeoutMs }, match);
  }

  /** Asks it to end; kills it and its children when it has not after the time. */
  async stop(timeoutMs = 10_000): Promise<number> {
    this.#signal('SIGTERM');
    const timer = setTimeout(() => this.kill(), timeoutMs);
    const status = await this.ended;
    clearTimeout(timer);
    return status;
  }

  /** Kills it and all of its process group, at once. */
  kill(): void {
    if (!this.isRunning) {
      return; // its number may be another's by now
    }
    try {
      process.kill(-this.pid, 'SIGKILL');
    } catch {
      // it never started, or nothing of it is left
    }
  }

  #signal(signal: NodeJS.Signals): void {
    if (this.isRunning) {
      this.#child.kill(signal);
    }
  }

  #take(line: string): void {
    this.#log.write(`${line}\n`);
    this.#tail.push(line);
    if (this.#tail.length > TAIL_LINES) {
      this.#tail.shift();
    }
    this.#lines.emit('line', line);
  }
}
