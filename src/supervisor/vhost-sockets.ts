// The places where QEMU finds its disks: SOCKET_DIR/VM/DISK.sock. The engine binds the sockets; the
// supervisor makes and removes the folders around them and sets who may connect.
import { chmod, chown, mkdir, rm, rmdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/** sun_path of sockaddr_un holds 108 bytes with its end, and a socket is bound as `.NAME` before it is NAME. */
export const SOCKET_PATH_MAX = 106;

export interface SocketAccess {
  mode: number;
  /** null: left as it is. */
  groupId: number | null;
}

/** Lets the right group use a bound socket. */
export async function grantAccess(socket: string, access: SocketAccess): Promise<void> {
  if (access.groupId !== null) {
    const { uid } = await stat(socket);
    await chown(socket, uid, access.groupId);
  }
  await chmod(socket, access.mode);
}

export async function makeSocketFolder(socket: string): Promise<void> {
  if (Buffer.byteLength(socket) > SOCKET_PATH_MAX) {
    throw new Error(
      `the path of the socket has more than ${SOCKET_PATH_MAX} bytes: ${socket}; choose a shorter socket_dir`,
    );
  }
  await mkdir(dirname(socket), { recursive: true, mode: 0o755 });
}

/** Removes the socket and, when it was the VM's last, the VM's folder. */
export async function removeSocket(socket: string): Promise<void> {
  const unfinished = join(dirname(socket), `.${basename(socket)}`); // of an engine that died while it made it
  await Promise.all([socket, unfinished].map((path) => rm(path, { force: true })));
  await rmdir(dirname(socket)).catch(() => {}); // other disks live there
}
