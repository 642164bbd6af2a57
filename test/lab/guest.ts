// The test guest's command channel (guest/test/init is the other end).
import type { Socket } from 'node:net';
import { LabError, messageOf } from './errors.js';
import { guestImage } from './images.js';
import { Qemu, type QemuOptions } from './qemu.js';
import { connectTo, onLines } from './socket.js';
import { within } from './wait.js';

const BOOT_TIMEOUT_MS = 180_000;
const MEMORY_MIB = 512;

export interface GuestOutcome {
  status: number;
  output: string;
}

export class TestGuest {
  readonly qemu: Qemu;
  readonly bootMs: number;
  readonly #socket: Socket;
  #lastId = 0;
  #listener: (line: string) => void = () => {};

  private constructor(qemu: Qemu, socket: Socket, bootMs: number) {
    this.qemu = qemu;
    this.#socket = socket;
    this.bootMs = bootMs;
  }

  /** Starts QEMU with the test guest's kernel and waits until it takes commands. */
  static async boot(options: QemuOptions): Promise<TestGuest> {
    const image = await guestImage('test');
    const kernel = ['-kernel', `${image}/vmlinuz`, '-initrd', `${image}/initrd`];
    const append = ['-append', 'console=ttyS0 panic=-1 loglevel=5'];
    const startedAt = performance.now();
    const defaults = options.args.includes('-m') ? {} : { memoryMib: MEMORY_MIB };
    const qemu = await Qemu.start({ ...defaults, ...options, args: [...kernel, ...append, ...options.args] });
    const socket = await connectTo(qemu.commandSocket, 'the command channel', () => qemu.process.isRunning);
    let take: (line: string) => void = () => {};
    const ready = new Promise<void>((resolve, reject) => {
      take = (line) => line === '##READY' && resolve();
      qemu.process.ended.then(() => reject(new LabError(`QEMU ended: ${qemu.process.tail()}`)), reject);
    });
    onLines(socket, (line) => take(line));
    await within({ what: `the guest to boot (console: ${qemu.consoleLog})`, timeoutMs: BOOT_TIMEOUT_MS }, ready);
    const guest = new TestGuest(qemu, socket, performance.now() - startedAt);
    take = (line) => guest.#listener(line);
    return guest;
  }

  /** Runs a shell command in the guest, one at a time. */
  async run(command: string, timeoutMs = 120_000): Promise<GuestOutcome> {
    const id = ++this.#lastId;
    const lines: string[] = [];
    const end = new RegExp(`^##END ${id} (\\d+)$`);
    const done = new Promise<GuestOutcome>((resolve, reject) => {
      this.#listener = (line) => {
        const status = end.exec(line)?.[1];
        if (status !== undefined) {
          resolve({ status: Number(status), output: lines.join('\n').trimEnd() });
        } else if (line !== `##BEGIN ${id}`) {
          lines.push(line);
        }
      };
      this.qemu.process.ended.then(() => reject(new LabError(`QEMU ended during: ${command}`)), reject);
    });
    this.#socket.write(`RUN ${id} ${Buffer.from(command).toString('base64')}\n`);
    return within({ what: `the guest to finish: ${command}`, timeoutMs }, done).catch(async (error: unknown) => {
      throw new LabError(`${messageOf(error)}; ${await this.#condition()}`);
    });
  }

  /** Of QEMU, when the guest is silent. */
  async #condition(): Promise<string> {
    const answer = this.qemu.qmp.execute('query-status');
    return answer.then((status) => `QEMU says ${JSON.stringify(status)}`, messageOf);
  }

  /** As `run`, for a command that must succeed. Returns its output. */
  async must(command: string, timeoutMs?: number): Promise<string> {
    const { status, output } = await this.run(command, timeoutMs);
    if (status !== 0) {
      throw new LabError(`in the guest: ${command}: status ${status}\n${output}`);
    }
    return output;
  }

  /** Resolves when the guest, which was just reset, takes commands again. */
  async waitForBoot(): Promise<void> {
    const ready = new Promise<void>((resolve, reject) => {
      this.#listener = (line) => line === '##READY' && resolve();
      this.qemu.process.ended.then(() => reject(new LabError(`QEMU ended: ${this.qemu.process.tail()}`)), reject);
    });
    const what = `the guest to boot again (console: ${this.qemu.consoleLog})`;
    await within({ what, timeoutMs: BOOT_TIMEOUT_MS }, ready);
  }

  async powerOff(): Promise<void> {
    this.#socket.write(`RUN 0 ${Buffer.from('sync; poweroff -f').toString('base64')}\n`);
    await within({ what: 'the guest to power off', timeoutMs: 60_000 }, this.qemu.process.ended);
  }
}
