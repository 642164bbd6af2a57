// From nothing to an engine that waits to be activated.
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../errors.js';
import type { EngineLauncher } from './engine-launcher.js';
import { EngineProcess } from './engine-process.js';

const LISTEN_TIMEOUT_MS = 30_000;
const CONNECT_RETRY_MS = 10;

export interface BirthOptions {
  launcher: EngineLauncher;
  socket: string;
  niceness: number;
  signal: AbortSignal;
  onLaunched(pid: number | null): void;
}

/** Rejects, and leaves no process, when the engine does not listen. */
export async function giveBirth({
  launcher,
  socket,
  niceness,
  signal,
  onLaunched,
}: BirthOptions): Promise<EngineProcess> {
  const launched = launcher.launch(socket, niceness);
  onLaunched(launched.pid);
  const deadline = performance.now() + LISTEN_TIMEOUT_MS;
  for (;;) {
    const engine = await EngineProcess.claim(socket);
    if (engine !== undefined) {
      return engine;
    }
    const failure = await Promise.race([launched.failed, sleep(CONNECT_RETRY_MS)]);
    if (failure !== undefined) {
      throw new Error(`the engine ended at its start (${failure}): ${lastWords(launcher.log)}`);
    }
    if (signal.aborted || performance.now() > deadline) {
      launched.kill();
      throw new Error(
        signal.aborted ? 'stopping' : `the engine did not listen on ${socket} within ${LISTEN_TIMEOUT_MS / 1000} s`,
      );
    }
  }
}

/** The end of the engine's log, where it says why it could not start. */
function lastWords(log: string): string {
  if (!log.startsWith('/')) {
    return `see ${log}`;
  }
  try {
    return readFileSync(log, 'utf8').trim().split('\n').slice(-3).join(' | ') || 'it said nothing';
  } catch (error) {
    return messageOf(error);
  }
}
