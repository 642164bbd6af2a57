// The file that an import fills. Until everything has been checked it lies beside its place under another name,
// so a volume's file is whole or not there, whenever the machine stops.
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoOf, messageOf, OutriggerError, refuse } from '../errors.js';
import { isZero, type StreamHeader } from '../stream/format.js';
import type { ContentSink } from '../stream/reader.js';
import { syncDirectory } from './volume-files.js';

const SUFFIX = '.importing';
/** A run of zeros of this size, bytes, becomes a hole. */
const HOLE_UNIT = 64 * 1024;

export class ImportFile implements ContentSink {
  private readonly path: string;
  /** Where the file lies now. */
  private place: string;
  private handle: FileHandle | undefined;

  constructor(path: string) {
    this.path = path;
    this.place = `${path}${SUFFIX}`;
  }

  begin({ size }: StreamHeader): Promise<void> {
    return this.guard(async () => {
      await mkdir(dirname(this.path), { recursive: true, mode: 0o700 });
      this.handle = await open(this.place, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o600);
      await this.handle.truncate(size);
    });
  }

  write(content: Buffer, position: number): Promise<void> {
    return this.guard(async () => {
      for (const [from, to] of dataRuns(content)) {
        await writeAll(this.handle, content.subarray(from, to), position + from);
      }
    });
  }

  /** Durably, under its final name, which nobody else uses. */
  keep(): Promise<void> {
    return this.guard(async () => {
      await this.handle?.sync();
      await this.close();
      await rename(this.place, this.path);
      this.place = this.path;
      await syncDirectory(dirname(this.path));
    });
  }

  async drop(): Promise<void> {
    await this.close();
    await rm(this.place, { force: true });
  }

  private async close(): Promise<void> {
    const { handle } = this;
    this.handle = undefined;
    await handle?.close();
  }

  private async guard(body: () => Promise<void>): Promise<void> {
    try {
      await body();
    } catch (error) {
      throw error instanceof OutriggerError
        ? error
        : refuse('storage_failed', `${this.place} cannot be written: ${messageOf(error)}`, { path: this.place });
    }
  }
}

async function writeAll(handle: FileHandle | undefined, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; handle !== undefined && done < bytes.length; ) {
    done += (await handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
  }
}

/** The parts of `content` that are not zeros. */
function* dataRuns(content: Buffer): Generator<[number, number]> {
  let from: number | undefined;
  for (let at = 0; at < content.length; at += HOLE_UNIT) {
    if (!isZero(content.subarray(at, at + HOLE_UNIT))) {
      from ??= at;
    } else if (from !== undefined) {
      yield [from, at];
      from = undefined;
    }
  }
  if (from !== undefined) {
    yield [from, content.length];
  }
}

/** Files of imports that never ended, in `dir`. */
export async function findRemains(dir: string): Promise<string[]> {
  try {
    return (await readdir(dir)).filter((name) => name.endsWith(`.raw${SUFFIX}`)).map((name) => `${dir}/${name}`);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      return [];
    }
    throw error;
  }
}
