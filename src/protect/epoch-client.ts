// A client of a protection domain's socket: cuts and commits without HTTP. Requests may be under way at once, and
// replies come as the work ends, in any order.
import { connect, type Socket } from 'node:net';
import { messageOf } from '../errors.js';
import {
  ANY_GENERATION,
  decodeReply,
  type EpochOp,
  type EpochReply,
  encodeRequest,
  REPLY_BYTES,
} from './epoch-records.js';

export { ANY_GENERATION, type EpochReply };

/** The server leaves commits beyond this unread. */
export const UNDER_WAY_MAX = 64;

/** stale: of an older generation; again: too many epochs are not applied yet, or a fence is under way; invalid: the epoch
 * is not closed; io: the domain does not run, or its journal failed; busy: UNDER_WAY_MAX; closed: the connection ended
 * first, so whether it was done is unknown; foreign: the other end does not speak this. */
export type EpochErrorCode = 'stale' | 'again' | 'invalid' | 'io' | 'busy' | 'closed' | 'foreign';

/** By errno, as the wire has it on every platform. */
const CODES: Readonly<Record<number, EpochErrorCode>> = { 116: 'stale', 11: 'again', 22: 'invalid', 5: 'io' };

export class EpochError extends Error {
  readonly code: EpochErrorCode;

  constructor(code: EpochErrorCode, message: string) {
    super(message);
    this.name = 'EpochError';
    this.code = code;
  }
}

interface Pending {
  op: EpochOp;
  resolve(reply: EpochReply): void;
  reject(error: EpochError): void;
}

export class EpochClient {
  /** Resolves when the connection has ended, whoever ended it. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #pending = new Map<number, Pending>();
  #received: Buffer = Buffer.alloc(0);
  #tag = 0;
  #error: EpochError | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('error', (error) => this.#fail(new EpochError('closed', messageOf(error))));
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.#fail(new EpochError('closed', 'the connection to the domain has ended'));
        resolve();
      });
    });
  }

  /** Rejects with `closed` when nobody listens. */
  static connect(path: string): Promise<EpochClient> {
    return new Promise((resolve, reject) => {
      const socket = connect(path);
      const client = new EpochClient(socket);
      socket.once('connect', () => resolve(client));
      socket.once('close', () => reject(client.#error));
    });
  }

  /** Closes the open epoch; the reply has its number. */
  cut(generation = ANY_GENERATION): Promise<EpochReply> {
    return this.#request('cut', generation, 0);
  }

  /** Resolves when all epochs up to this one are durable, and what they hold goes out. */
  commit(epoch: number, generation = ANY_GENERATION): Promise<EpochReply> {
    return this.#request('commit', generation, epoch);
  }

  status(): Promise<EpochReply> {
    return this.#request('status', ANY_GENERATION, 0);
  }

  /** What is under way ends with `closed`. */
  close(): Promise<void> {
    this.#socket.destroy();
    return this.closed;
  }

  #request(op: EpochOp, generation: number, epoch: number): Promise<EpochReply> {
    if (this.#error !== undefined) {
      return Promise.reject(this.#error);
    }
    if (this.#pending.size >= UNDER_WAY_MAX) {
      return Promise.reject(new EpochError('busy', `${UNDER_WAY_MAX} requests are under way`));
    }
    do {
      this.#tag = (this.#tag + 1) >>> 0;
    } while (this.#pending.has(this.#tag));
    const tag = this.#tag;
    return new Promise((resolve, reject) => {
      this.#pending.set(tag, { op, resolve, reject });
      this.#socket.write(encodeRequest({ op, tag, generation, epoch }));
    });
  }

  #take(chunk: Buffer): void {
    this.#received = this.#received.length === 0 ? chunk : Buffer.concat([this.#received, chunk]);
    let at = 0;
    for (; this.#received.length - at >= REPLY_BYTES; at += REPLY_BYTES) {
      this.#end(this.#received.subarray(at, at + REPLY_BYTES));
    }
    this.#received = this.#received.subarray(at);
  }

  #end(record: Buffer): void {
    const decoded = decodeReply(record);
    const pending = decoded && this.#pending.get(decoded.tag);
    if (decoded === undefined || pending === undefined) {
      this.#fail(new EpochError('foreign', 'what answers on the socket is no protection domain'));
      return;
    }
    this.#pending.delete(decoded.tag);
    if (decoded.error === 0) {
      pending.resolve(decoded.reply);
    } else {
      const code = CODES[decoded.error] ?? 'io';
      const { generation, open, committed } = decoded.reply;
      const now = `generation ${generation}, open ${open}, committed ${committed}`;
      pending.reject(new EpochError(code, `${pending.op} refused: ${code}, errno ${decoded.error} (${now})`));
    }
  }

  /** The first reason counts. */
  #fail(error: EpochError): void {
    this.#error ??= error;
    for (const { reject } of this.#pending.values()) {
      reject(this.#error);
    }
    this.#pending.clear();
    this.#socket.destroy();
  }
}
