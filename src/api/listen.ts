// Where a server listens: a unix socket for local users, TCP for HTTPS.
import { rm } from 'node:fs/promises';
import { connect } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { errnoOf, messageOf, refuse } from '../errors.js';
import { grantAccess } from '../supervisor/vhost-sockets.js';

const SOCKET_MODE = 0o660;

/** Throws socket_in_use while somebody answers at `path`, so that two supervisors never share a run_dir. */
export async function claimSocket(path: string): Promise<void> {
  const isAnswered = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
  if (isAnswered) {
    throw refuse('socket_in_use', `another supervisor answers at ${path}`);
  }
  await rm(path, { force: true });
}

/** Listens on a socket that claimSocket() has made free. */
export async function listenUnix(app: FastifyInstance, path: string, groupId: number | null): Promise<void> {
  try {
    await app.listen({ path });
    await grantAccess(path, { mode: SOCKET_MODE, groupId });
  } catch (error) {
    throw refuse('listen_failed', `cannot listen on ${path}: ${errnoOf(error) || messageOf(error)}`);
  }
}

/** Returns the port. */
export async function listenTcp(app: FastifyInstance, host: string, port: number): Promise<number> {
  try {
    await app.listen({ host, port });
  } catch (error) {
    throw refuse('listen_failed', `cannot listen on ${host} port ${port}: ${errnoOf(error) || messageOf(error)}`);
  }
  const address = app.server.address();
  return typeof address === 'object' && address !== null ? address.port : port;
}
