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

const MIB = 1024 * 1024;
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

  /** One file, or the file of the disk `index` of `count` that share the space. */
  inMemory(index = 0, count = 1): Promise<string> {
    return this.#volumeIn(MEMORY, index, count);
  }

  onDisk(index = 0, count = 1): Promise<string> {
    return this.#volumeIn(DISK, index, count);
  }

  /** Bytes of each of `count` disks that share the space: whole MiB. */
  bytesOfEach(count: number): number {
    return Math.max(1, Math.floor(this.bytes / count / MIB)) * MIB;
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

  #volumeIn(parent: string, index: number, count: number): Promise<string> {
    const name = count === 1 ? 'volume' : `volume-${index + 1}-of-${count}`;
    const file = `${this.#directoryIn(parent)}/${name}.img`;
    const volume = this.#volumes.get(file) ?? makeVolume(file, this.bytesOfEach(count));
    this.#volumes.set(file, volume);
    return volume;
  }

  /** Removes the files of several disks: together they are as large as the one that stays. */
  dropShared(): void {
    for (const file of [...this.#volumes.keys()].filter((name) => name.includes('-of-'))) {
      rmSync(file, { force: true });
      this.#volumes.delete(file);
    }
  }
}

async function makeVolume(file: string, bytes: number): Promise<string> {
  runSync(['truncate', '-s', String(bytes), file]);
  await runLoadgen(['--engine', 'io_uring', '--file', file, ...FILL]);
  return file;
}

function sweepLeftovers(parent: string): void {
  for (const name of existsSync(parent) ? readdirSync(parent) : []) {
    const pid = name.startsWith(PREFIX) ? name.slice(PREFIX.length) : undefined;
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) {
      rmSync(`${parent}/${name}`, { recursive: true, force: true });
    }
  }
}
