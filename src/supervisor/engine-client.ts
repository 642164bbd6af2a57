// One connection to an engine: requests with ids, answers in any order, events. It knows nothing of the
// engine's life; when the connection ends, every open request fails and `closed` resolves, once.
import { connect, type Socket } from 'node:net';
import { LineSplitter } from '../engine/lines.js';
import { messageOf } from '../errors.js';
import type { CommandName, EngineCommands, EngineEvent } from './protocol.js';

/** The engine answered `ok: false`. */
export class EngineCommandError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.name = 'EngineCommandError';
    this.code = code;
  }
}

/** The connection ended, or the answer did not come in time: nobody knows whether the command was done. */
export class EngineGoneError extends Error {
  override readonly name = 'EngineGoneError';
}

/** The answer to a removal: that there is no such thing is success, since a predecessor of ours may have begun it. */
export async function untilGone(removal: Promise<unknown>): Promise<void> {
  try {
    await removal;
  } catch (error) {
    if (!(error instanceof EngineCommandError && error.code === 'ENOENT')) {
      throw error;
    }
  }
}

/** What the supervisors need of an engine. */
export interface EngineCaller {
  /** timeoutMs 0: waits for as long as the connection lives. */
  request<C extends CommandName>(
    cmd: C,
    args: EngineCommands[C]['args'],
    timeoutMs?: number,
  ): Promise<EngineCommands[C]['result']>;
}

interface Waiting {
  resolve(result: unknown): void;
  reject(error: Error): void;
  timer: NodeJS.Timeout | undefined;
}

const REQUEST_TIMEOUT_MS = 10_000;
/** Characters; the longest answers are lists with some 300 for each volume or device. */
const LINE_MAX = 64 * 1024 * 1024;

export class EngineClient implements EngineCaller {
  /** Resolves with the reason when the connection has ended. */
  readonly closed: Promise<string>;
  /** Set before the first event can arrive, that is, in the tick in which connect() resolves. */
  onEvent: (event: EngineEvent) => void = () => {};
  private readonly socket: Socket;
  private readonly waiting = new Map<number, Waiting>();
  private nextId = 1;
  private gone = false;

  private constructor(socket: Socket) {
    this.socket = socket;
    let reason = 'the engine closed the connection';
    socket.on('error', (error) => {
      reason = messageOf(error);
    });
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.gone = true;
        for (const { reject, timer } of this.waiting.values()) {
          clearTimeout(timer);
          reject(new EngineGoneError(reason));
        }
        this.waiting.clear();
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

  /** Rejects with the system error (ENOENT, ECONNREFUSED: nobody listens). */
  static connect(path: string): Promise<EngineClient> {
    return new Promise((resolve, reject) => {
      const socket = connect(path);
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new EngineClient(socket));
      });
    });
  }

  request<C extends CommandName>(
    cmd: C,
    args: EngineCommands[C]['args'],
    timeoutMs = REQUEST_TIMEOUT_MS,
  ): Promise<EngineCommands[C]['result']> {
    if (this.gone) {
      return Promise.reject(new EngineGoneError('the engine is gone'));
    }
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      const timer =
        timeoutMs === 0
          ? undefined
          : setTimeout(() => {
              this.waiting.delete(id);
              reject(new EngineGoneError(`no answer to ${cmd} within ${timeoutMs} ms`));
            }, timeoutMs);
      this.waiting.set(id, { resolve: resolve as (result: unknown) => void, reject, timer });
      this.socket.write(`${JSON.stringify({ id, cmd, args })}\n`);
    });
  }

  close(): void {
    this.socket.destroy();
  }

  private receive(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      this.socket.destroy(new Error('the engine sent something that is not JSON'));
      return;
    }
    if (isEvent(message)) {
      this.onEvent(message);
    } else if (isAnswer(message)) {
      const waiting = this.waiting.get(message.id);
      this.waiting.delete(message.id);
      clearTimeout(waiting?.timer);
      if (message.ok) {
        waiting?.resolve(message.result);
      } else {
        waiting?.reject(new EngineCommandError(message.error.code, message.error.message));
      }
    } else {
      this.socket.destroy(new Error(`the engine sent an unknown message: ${line.slice(0, 80)}`));
    }
  }
}

type Answer =
  | { id: number; ok: true; result: unknown }
  | { id: number; ok: false; error: { code: string; message: string } };

function isEvent(message: unknown): message is EngineEvent {
  return typeof message === 'object' && message !== null && 'event' in message && 'data' in message;
}

function isAnswer(message: unknown): message is Answer {
  return typeof message === 'object' && message !== null && 'id' in message && 'ok' in message;
}
