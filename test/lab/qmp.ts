// A client of QEMU's monitor protocol (QMP): commands in order, events to whoever listens.
import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { LabError } from './errors.js';
import { connectTo, onLines } from './socket.js';
import { within } from './wait.js';

interface Message {
  return?: unknown;
  error?: { class: string; desc: string };
  event?: string;
  data?: unknown;
}

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

export class Qmp {
  readonly #socket: Socket;
  readonly #waiting: Waiting[] = [];
  /** Emits every event by its name, with its data. */
  readonly events = new EventEmitter();

  private constructor(socket: Socket) {
    this.#socket = socket;
    onLines(socket, (line) => this.#take(JSON.parse(line) as Message));
    socket.once('close', () => {
      for (const { reject } of this.#waiting.splice(0)) {
        reject(new LabError('QEMU closed its monitor'));
      }
    });
  }

  static async open(path: string, isAlive: () => boolean): Promise<Qmp> {
    const qmp = new Qmp(await connectTo(path, "QEMU's monitor", isAlive));
    await qmp.execute('qmp_capabilities');
    return qmp;
  }

  execute(command: string, args: Record<string, unknown> = {}): Promise<unknown> {
    const answer = new Promise<unknown>((resolve, reject) => this.#waiting.push({ resolve, reject }));
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    return within({ what: `QEMU to answer ${command}`, timeoutMs: 60_000 }, answer);
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(message: Message): void {
    if (message.event !== undefined) {
      this.events.emit(message.event, message.data);
    } else if (message.error !== undefined) {
      this.#waiting.shift()?.reject(new LabError(`QEMU: ${message.error.desc} (${message.error.class})`));
    } else if ('return' in message) {
      this.#waiting.shift()?.resolve(message.return);
    }
  }
}
