// A client of QEMU's monitor (QMP): newline-delimited JSON over a unix socket of QEMU's. It says nothing before it
// has read QEMU's greeting, so a socket that is somebody else's gets nothing from us.
import { connect, type Socket } from 'node:net';
import { LineSplitter } from '../engine/lines.js';
import { messageOf } from '../errors.js';

/** Characters; a filter with some hundred addresses has fewer than 20,000. */
const LINE_MAX = 1 << 20;
const ANSWER_TIMEOUT_MS = 10_000;

export class QmpClient {
  /** Resolves with the reason when the connection has ended. */
  readonly closed: Promise<string>;
  onEvent: (name: string) => void = () => {};
  private readonly socket: Socket;
  private readonly waiting: { resolve(value: unknown): void; reject(error: Error): void }[] = [];
  private greeted = false;

  private constructor(socket: Socket) {
    this.socket = socket;
    let reason = 'QEMU closed its monitor';
    socket.on('error', (error) => {
      reason = messageOf(error);
    });
    socket.on('timeout', () => socket.destroy(new Error('QEMU does not answer on its monitor')));
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        for (const { reject } of this.waiting.splice(0)) {
          reject(new Error(reason));
        }
        resolve(reason);
      });
    });
    const lines = new LineSplitter(LINE_MAX);
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      for (const line of lines.feed(chunk) ?? ['']) {
        this.receive(line);
      }
    });
  }

  /** Resolves when QEMU takes commands. Rejects when nobody listens, or not QEMU. */
  static async connect(path: string): Promise<QmpClient> {
    const socket = connect(path);
    const client = new QmpClient(socket);
    const silence = new Error(`no greeting on ${path}: another client may have the monitor`);
    const timer = setTimeout(() => socket.destroy(silence), ANSWER_TIMEOUT_MS);
    try {
      await client.expect(); // the greeting
      await client.execute('qmp_capabilities');
      return client;
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** One after the other: QEMU answers in order. */
  execute(command: string): Promise<unknown> {
    const answer = this.expect();
    this.socket.setTimeout(ANSWER_TIMEOUT_MS);
    this.socket.write(`${JSON.stringify({ execute: command })}\n`);
    return answer.finally(() => this.socket.setTimeout(0));
  }

  close(): void {
    this.socket.destroy();
  }

  private expect(): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.socket.destroyed) {
        reject(new Error('QEMU closed its monitor'));
        return;
      }
      this.waiting.push({ resolve, reject });
    });
  }

  private receive(line: string): void {
    let message: Record<string, unknown>;
    try {
      message = Object(JSON.parse(line)) as Record<string, unknown>;
    } catch {
      this.socket.destroy(new Error('this is not the monitor of a QEMU: no JSON'));
      return;
    }
    if (!this.greeted && !('QMP' in message)) {
      this.socket.destroy(new Error('this is not the monitor of a QEMU: no greeting'));
    } else if (typeof message.event === 'string') {
      this.onEvent(message.event);
    } else {
      this.greeted = true;
      const waiting = this.waiting.shift();
      if ('error' in message) {
        const { desc } = Object(message.error) as { desc?: unknown };
        waiting?.reject(new Error(String(desc ?? 'QEMU refused')));
      } else {
        waiting?.resolve(message.return);
      }
    }
  }
}
