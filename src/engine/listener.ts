// The engine's end of the protocol in supervisor/protocol.ts: any number of clients on a unix socket.
//
// One of them may `claim` the engine: a supervisor, which from then on is the only one. The others are told and
// cut off, what they sent and was not begun is never done, and what was begun has ended (or takes long) before
// the claim is answered. So the state in that answer is not changed behind the back of the new supervisor.
import { chmodSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../errors.js';
import type { EngineEvent } from '../supervisor/protocol.js';
import type { Handler } from './commands.js';
import { LineSplitter } from './lines.js';

/** How long a claim waits for what the others began. What takes longer waits for a disk or for the peer. */
const CLAIM_WAIT_MS = 1000;
/** Characters; a device document of a host with thousands of disks has some 300 each. */
const LINE_MAX = 16 * 1024 * 1024;
/** A client that leaves so much unread, in bytes, is given up. */
const UNREAD_MAX = 32 * 1024 * 1024;
/** So many commands of one client under way are none that a supervisor would send. */
const COMMANDS_MAX = 16_384;

interface Request {
  id: number;
  cmd: string;
  args: unknown;
}

function isRequest(message: unknown): message is Request {
  return (
    typeof message === 'object' &&
    message !== null &&
    'id' in message &&
    typeof message.id === 'number' &&
    'cmd' in message &&
    typeof message.cmd === 'string'
  );
}

function codeOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : 'EINVAL';
}

/** One connection; `running` are its commands that have not ended. */
interface Client {
  socket: Socket;
  running: Set<Promise<void>>;
  superseded: boolean;
}

export class Listener {
  private readonly clients = new Set<Client>();
  private readonly find: (cmd: string) => Handler | undefined;
  private readonly server: Server;

  /** `find` is asked for each command anew: an engine that is activated has more of them. */
  constructor(find: (cmd: string) => Handler | undefined) {
    this.find = find;
    this.server = createServer((socket) => this.accept(socket));
  }

  /** Only the owner may connect. Replaces a socket that a dead engine left behind. */
  listen(path: string): Promise<void> {
    rmSync(path, { force: true });
    return new Promise((resolve, reject) => {
      this.server.once('error', reject);
      this.server.listen(path, () => {
        chmodSync(path, 0o600);
        resolve();
      });
    });
  }

  get isAlone(): boolean {
    return this.clients.size === 0;
  }

  broadcast(event: EngineEvent): void {
    const line = `${JSON.stringify(event)}\n`;
    for (const client of this.clients) {
      this.write(client, line);
    }
  }

  private accept(socket: Socket): void {
    const client: Client = { socket, running: new Set(), superseded: false };
    const lines = new LineSplitter(LINE_MAX);
    this.clients.add(client);
    socket.setEncoding('utf8');
    socket.on('close', () => this.clients.delete(client));
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk: string) => {
      for (const line of lines.feed(chunk) ?? ['']) {
        this.receive(client, line);
      }
    });
  }

  private receive(client: Client, line: string): void {
    if (client.superseded || client.socket.destroyed) {
      return;
    }
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      message = undefined;
    }
    if (!isRequest(message) || client.running.size >= COMMANDS_MAX) {
      client.socket.destroy();
      return;
    }
    const running = this.serve(client, message).finally(() => client.running.delete(running));
    client.running.add(running);
  }

  private async serve(client: Client, request: Request): Promise<void> {
    if (request.cmd === 'claim') {
      await this.claim(client);
    }
    this.write(client, `${JSON.stringify({ id: request.id, ...(await this.answer(request)) })}\n`);
  }

  private async claim(claimant: Client): Promise<void> {
    const others = [...this.clients].filter((client) => client !== claimant);
    const event: EngineEvent = { event: 'superseded', data: {} };
    for (const client of others) {
      client.superseded = true;
      client.socket.end(`${JSON.stringify(event)}\n`);
    }
    await Promise.race([Promise.all(others.flatMap(({ running }) => [...running])), sleep(CLAIM_WAIT_MS)]);
  }

  private async answer({ cmd, args }: Request): Promise<object> {
    const handler = this.find(cmd);
    if (!handler) {
      return { ok: false, error: { code: 'EOPNOTSUPP', message: `this engine has no command ${cmd} now` } };
    }
    try {
      return { ok: true, result: (await handler(args)) ?? {} };
    } catch (error) {
      return { ok: false, error: { code: codeOf(error), message: messageOf(error) } };
    }
  }

  private write({ socket }: Client, line: string): void {
    if (socket.writable && !socket.write(line) && socket.writableLength > UNREAD_MAX) {
      socket.destroy();
    }
  }
}
