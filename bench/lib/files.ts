// The files behind the volumes, made when first needed and filled with data, because holes would be read
// without touching the storage: one on tmpfs, for the peers that serve a file but shall be compared with a
// volume in memory, and one on the disk of this checkout.
//
// They are large, so what a killed run left behind is removed by the next one.
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import type { Cleanup } from '../../test/lab/cleanup.js';
import { runSync } from '../../test/lab/command.js';
import { repoRoot } from '../../test/lab/paths.js';
import { FILL, runLoadgen } from './loadgen.js';

const PREFIX = 'outrigger-bench-';
const MEMORY = '/dev/shm';
const DISK = `${repoRoot}/.cache`;

export class Files {
  readonly bytes: number;
  readonly #cleanup: Cleanup;
  readonly #volumes = new Map<string, Promise<string>>();

  constructor(bytes: number, cleanup: Cleanup) {
    this.bytes = bytes;
    this.#cleanup = cleanup;
    for (const parent of [MEMORY, DISK]) {
      sweepLeftovers(parent);
    }
  }

  inMemory(): Promise<string> {
    return this.#volumeIn(MEMORY);
  }

  onDisk(): Promise<string> {
    return this.#volumeIn(DISK);
  }

  /** A directory for small files of this run. */
  directory(): string {
    return this.#directoryIn(MEMORY);
  }

  #directoryIn(parent: string): string {
    const directory = `${parent}/${PREFIX}${process.pid}`;
    if (!existsSync(directory)) {
      this.#cleanup.add(() => rmSync(directory, { recursive: true, force: true }));
      mkdirSync(directory, { recursive: true, mode: 0o700 });
    }
    return directory;
  }

  #volumeIn(parent: string): Promise<string> {
    const volume = this.#volumes.get(parent) ?? this.#makeVolume(`${this.#directoryIn(parent)}/volume.img`);
    this.#volumes.set(parent, volume);
    return volume;
  }

  async #makeVolume(file: string): Promise<string> {
    runSync(['truncate', '-s', String(this.bytes), file]);
    await runLoadgen(['--engine', 'io_uring', '--file', file, ...FILL]);
    return file;
  }
}

function sweepLeftovers(parent: string): void {
  for (const name of existsSync(parent) ? readdirSync(parent) : []) {
    const pid = name.startsWith(PREFIX) ? name.slice(PREFIX.length) : undefined;
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) {
      rmSync(`${parent}/${name}`, { recursive: true, force: true });
    }
  }
}
