// How an engine process is started: as a unit of its own where systemd runs, so that it does not die with the
// supervisor's, or as a detached process.
import { execFile, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { messageOf } from '../errors.js';
import { reniceThreads } from './engine-process.js';

export interface Launched {
  pid: number | null;
  /** Resolves with the reason when the process ends without having listened, as far as that can be seen. */
  failed: Promise<string>;
  kill(): void;
}

export interface EngineLauncher {
  /** Where the engine's own words are, for the operator. */
  readonly log: string;
  /** niceness: of a process that is not urgent; it is raised when it becomes so. */
  launch(socket: string, niceness: number): Launched;
}

/** So many volumes can wait for the last write of a dead engine before another one is opened; bin/outrigger-engine too. */
const OPENING_MAX = 32;

export class SpawnLauncher implements EngineLauncher {
  readonly log: string;
  private readonly program: string;

  /** program: the engine's main module. */
  constructor(program: string, log: string) {
    this.program = program;
    this.log = log;
  }

  launch(socket: string, niceness: number): Launched {
    const output = openSync(this.log, 'a', 0o640);
    const child = spawn(process.execPath, [this.program, '--socket', socket], {
      detached: true,
      stdio: ['ignore', output, output],
      env: { ...process.env, UV_THREADPOOL_SIZE: String(OPENING_MAX) },
    });
    closeSync(output);
    child.unref();
    if (child.pid !== undefined && niceness !== 0) {
      reniceThreads(child.pid, niceness);
    }
    const failed = new Promise<string>((resolve) => {
      child.once('error', (error) => resolve(messageOf(error)));
      child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`));
    });
    return { pid: child.pid ?? null, failed, kill: () => child.kill('SIGKILL') };
  }
}

const UNIT = 'outrigger-engine';
/** The template names it; an engine of another run_dir cannot be started by it. */
export const UNIT_RUN_DIR = '/run/outrigger';

/** RUN_DIR/host-engine.3.sock -> outrigger-engine@host-engine.3.service */
export function unitOf(socket: string): string {
  return `${UNIT}@${basename(socket, '.sock')}.service`;
}

export class SystemdLauncher implements EngineLauncher {
  readonly log = `journalctl -u '${UNIT}@*'`;

  launch(socket: string): Launched {
    const unit = unitOf(socket);
    const failed = new Promise<string>((resolve) => {
      execFile('systemctl', ['start', '--no-block', unit], (error, _stdout, stderr) => {
        if (error !== null) {
          resolve(`systemctl start ${unit}: ${stderr.trim() || messageOf(error)}`);
        }
      });
    });
    const kill = () => {
      execFile('systemctl', ['kill', '--signal=SIGKILL', unit], () => {}); // it may be gone already
    };
    return { pid: null, failed, kill };
  }
}

export type LauncherKind = 'auto' | 'systemd' | 'spawn';

/** auto: systemd when it is there and has started us, and its template unit fits. */
export function chooseLauncher(kind: LauncherKind, program: string, filesPrefix: string): EngineLauncher {
  const underSystemd =
    process.env.SYSTEMD_EXEC_PID === String(process.pid) && // not merely a descendant of a unit
    existsSync('/run/systemd/system') &&
    dirname(filesPrefix) === UNIT_RUN_DIR;
  return kind === 'systemd' || (kind === 'auto' && underSystemd)
    ? new SystemdLauncher()
    : new SpawnLauncher(program, `${filesPrefix}.log`);
}
