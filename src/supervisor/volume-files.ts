// The files behind volumes: making a sparse one, judging one that is to be adopted, removing one.
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { access, mkdir, open, readFile, realpath, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoOf, messageOf, refuse } from '../errors.js';

/** The logical block of a volume in a file, bytes; also what sizes must be a multiple of. */
export const SECTOR = 512;

/** Names what a new file is going to hold: see Layer. */
export function newContent(): string {
  const content = randomBytes(8).toString('hex');
  return content === '0'.repeat(16) ? newContent() : content;
}

export async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/**
 * Makes the sparse file of a new volume, durably. Finishes what an earlier life of the supervisor began:
 * a shorter file is grown. Throws storage_failed.
 */
export async function makeVolumeFile(path: string, size: number): Promise<void> {
  try {
    await makeDirectoryOf(path);
    const handle = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    try {
      if ((await handle.stat()).size < size) {
        await handle.truncate(size);
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    await syncDirectory(dirname(path));
  } catch (error) {
    throw refuse('storage_failed', `${path} cannot be made: ${messageOf(error)}`, { path });
  }
}

export async function makeDirectoryOf(path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
}

/** Where the engine makes the file of a layer; so it is in native/layers/format.c. */
export const unfinishedPath = (path: string) => `${path}.new`;

/** What a file takes on the disk, bytes: less than its size when it is sparse. 0: it cannot be told. */
export async function storedBytes(path: string): Promise<number> {
  return stat(path).then(
    ({ blocks }) => blocks * SECTOR,
    () => 0,
  );
}

export async function removeVolumeFile(path: string): Promise<void> {
  await rm(path, { force: true });
  await syncDirectory(dirname(path));
}

export interface Adoptable {
  /** Without symbolic links, so that one file has one name. */
  path: string;
  size: number;
}

/** Whether a file or block device can be a volume, and its size. Throws volume_unsuitable. */
export async function inspectAdoptable(path: string, readOnly: boolean): Promise<Adoptable> {
  const unsuitable = (why: string) => refuse('volume_unsuitable', `${path} ${why}`);
  try {
    const real = await realpath(path);
    const info = await stat(real, { bigint: true });
    if (!info.isFile() && !info.isBlockDevice()) {
      throw unsuitable(`is ${info.isDirectory() ? 'a directory' : 'neither a regular file nor a block device'}`);
    }
    await access(real, readOnly ? constants.R_OK : constants.R_OK | constants.W_OK);
    const size = info.isFile() ? Number(info.size) : await blockDeviceSize(info.rdev);
    if (size === 0 || size % SECTOR !== 0) {
      throw unsuitable(`has ${size} bytes, which is not a positive multiple of ${SECTOR}`);
    }
    return { path: real, size };
  } catch (error) {
    const reasons: Record<string, string> = {
      ENOENT: 'does not exist',
      ENOTDIR: 'does not exist',
      EACCES: 'may not be read or written by the supervisor',
      EROFS: 'is on a read-only file system (adopt it with --read-only)',
    };
    const reason = reasons[errnoOf(error)];
    throw reason === undefined ? error : unsuitable(reason);
  }
}

async function blockDeviceSize(rdev: bigint): Promise<number> {
  // The layout of dev_t in glibc's makedev(3).
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & ~0xfffn);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & ~0xffn);
  return Number(await readFile(`/sys/dev/block/${major}:${minor}/size`, 'utf8')) * SECTOR;
}
