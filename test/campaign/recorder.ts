// The file system that keeps a journal of what is executed (test/tools/recorder_fs.c), mounted in the lab.
import { spawnSync } from 'node:child_process';
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import type { Cleanup } from '../lab/cleanup.js';
import { runSync } from '../lab/command.js';
import { LabError } from '../lab/errors.js';
import { repoRoot } from '../lab/paths.js';
import { LabProcess } from '../lab/process.js';

const PROGRAM = `${repoRoot}/build-rel/tools/recorder_fs`;
const READY_TIMEOUT_MS = 20_000;

export interface RecorderOptions {
  /** An existing directory; the backing file, the mount point and the journal are made in it. */
  dir: string;
  /** Bytes. */
  size: number;
  /** This share of the writes waits up to delayMs before it is executed. */
  delayShare: number;
  delayMs: number;
  /** Every so many writes one is executed again a second later: a fault that must be found. */
  replayEvery?: number;
  /** Every so many writes one is answered, but not executed: likewise. */
  loseEvery?: number;
  seed: number;
  cleanup: Cleanup;
}

export class Recorder {
  readonly journal: string;
  /** The file to make a volume of. */
  readonly file: string;
  readonly #mountpoint: string;
  readonly #process: LabProcess;

  private constructor(mountpoint: string, journal: string, started: LabProcess) {
    this.#mountpoint = mountpoint;
    this.file = `${mountpoint}/volume`;
    this.journal = journal;
    this.#process = started;
  }

  static async start({ dir, size, cleanup, ...options }: RecorderOptions): Promise<Recorder> {
    const [backing, mountpoint, journal] = [`${dir}/recorded.raw`, `${dir}/recorded`, `${dir}/recorded.journal`];
    mkdirSync(mountpoint);
    writeFileSync(backing, '');
    truncateSync(backing, size);
    const delays = ['--delay-ms', `${options.delayMs}`, '--delay-share', `${options.delayShare}`];
    const faults = ['--replay-every', `${options.replayEvery ?? 0}`, '--lose-every', `${options.loseEvery ?? 0}`];
    // Lazily: after a failure an engine may still hold the volume open.
    cleanup.add(() => spawnSync('umount', ['--lazy', '--quiet', mountpoint]));
    const started = new LabProcess({
      name: 'the recorder',
      argv: [PROGRAM, '--log', journal, ...delays, ...faults, '--seed', `${options.seed}`, backing, mountpoint],
      logFile: `${dir}/recorder.log`,
      cleanup,
    });
    await started.waitForLine(/^ready$/, READY_TIMEOUT_MS);
    return new Recorder(mountpoint, journal, started);
  }

  /** Takes the file system away and completes the journal; nobody may use the volume any more. */
  async stop(): Promise<void> {
    runSync(['umount', this.#mountpoint]);
    const status = await this.#process.stop();
    if (status !== 0) {
      throw new LabError(`the recorder ended with status ${status}\n${this.#process.tail()}`);
    }
  }
}
