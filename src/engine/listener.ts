// The engine's end of the protocol in supervisor/protocol.ts: any number of clients on a unix socket.
import { chmodSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { messageOf } from '../errors.js';
import type { EngineEvent } from '../supervisor/protocol.js';
import type { Handlers } from './commands.js';

type AnyHandler = (args: unknown) => unknown;

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

export class Listener {
  private readonly clients = new Set<Socket>();
  private readonly handlers: ReadonlyMap<string, AnyHandler>;
  private readonly server: Server;

  constructor(handlers: Handlers) {
    this.handlers = new Map(Object.entries(handlers) as [string, AnyHandler][]);
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

  /** Nobody can connect any more; who is connected stays. */
  close(): void {
    this.server.close();
  }

  broadcast(event: EngineEvent): void {
    const line = `${JSON.stringify(event)}\n`;
    for (const client of this.clients) {
      client.write(line);
    }
  }

  private accept(socket: Socket): void {
    this.clients.add(socket);
    socket.on('close', () => this.clients.delete(socket));
    socket.on('error', () => socket.destroy());
    // The interface repeats the socket's errors as its own.
    const lines = createInterface({ input: socket }).on('error', () => {});
    lines.on('line', (line) => void this.serve(socket, line));
  }

  private async serve(socket: Socket, line: string): Promise<void> {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      message = undefined;
    }
    if (!isRequest(message)) {
      socket.destroy();
      return;
    }
    socket.write(`${JSON.stringify({ id: message.id, ...(await this.answer(message)) })}\n`);
  }

  private async answer({ cmd, args }: Request): Promise<object> {
    const handler = this.handlers.get(cmd);
    if (!handler) {
      return { ok: false, error: { code: 'EOPNOTSUPP', message: `this engine has no command ${cmd}` } };
    }
    try {
      return { ok: true, result: (await handler(args)) ?? {} };
    } catch (error) {
      return { ok: false, error: { code: codeOf(error), message: messageOf(error) } };
    }
  }
}
