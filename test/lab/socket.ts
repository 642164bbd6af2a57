// A unix socket of QEMU's, as lines: the QMP monitor and the guests' serial ports.
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { waitFor } from './wait.js';

/** Connects as soon as the listener is there. */
export function connectTo(path: string, what: string, isAlive: () => boolean): Promise<Socket> {
  return waitFor({ what, timeoutMs: 20_000 }, async () => {
    if (!isAlive()) {
      throw new Error(`${what}: QEMU has ended`);
    }
    return tryConnect(path);
  });
}

function tryConnect(path: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      // QEMU's end simply closes; what waits for an answer has its own limit.
      socket.on('error', () => {});
      resolve(socket);
    });
    socket.once('error', () => resolve(undefined));
  });
}

export function onLines(socket: Socket, listener: (line: string) => void): void {
  // The interface repeats the socket's errors as its own.
  createInterface({ input: socket })
    .on('error', () => {})
    .on('line', listener);
}
