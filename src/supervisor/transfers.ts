// Volumes that leave and come as streams: export, digest, import. The supervisor reads a volume's file itself,
// beside the engine, so nobody may write to it meanwhile: neither an attachment nor an engine that has not
// followed a detach yet, and while it is read no attachment may begin to. An import makes a volume, and the volume
// exists from the moment that its whole content is on the disk and was checked.
import { type FileHandle, open, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { messageOf, refuse } from '../errors.js';
import { CHUNK_SIZE, contentHash, type StreamHeader, type StreamResult } from '../stream/format.js';
import { readStream } from '../stream/reader.js';
import { writeStream } from '../stream/writer.js';
import type { Logger } from '../telemetry/log.js';
import { findRemains, ImportFile } from './import-file.js';
import type { IohvSupervisor } from './iohv-supervisor.js';
import { NO_LIMIT } from './limits.js';
import { assertUnused, findVolume } from './operations.js';
import type { Store } from './store.js';
import { exists, SECTOR } from './volume-files.js';

export interface TransfersOptions {
  store: Store;
  supervisor: IohvSupervisor;
  volumeDir: string;
  log: Logger;
  /** How long an import waits for the engine to open the volume. */
  applyTimeoutMs: number;
}

/** A volume's content, readable until it is closed. */
interface Content {
  header: StreamHeader;
  read(buffer: Buffer, position: number): Promise<void>;
  close(): Promise<void>;
}

export class Transfers {
  private readonly options: TransfersOptions;
  /** Name of a volume -> exports and digests under way. */
  private readonly readers = new Map<string, number>();
  private readonly imports = new Set<string>();

  constructor(options: TransfersOptions) {
    this.options = options;
  }

  /** Throws volume_in_transfer. */
  assertNone(name: string): void {
    const what = this.imports.has(name) ? 'imported' : this.readers.has(name) ? 'exported' : undefined;
    if (what !== undefined) {
      throw refuse('volume_in_transfer', `the volume ${name} is being ${what}`, { volume: name });
    }
  }

  /** The stream of a volume. Destroying it ends the export. */
  async export(name: string): Promise<Readable> {
    const { log } = this.options;
    const { header, read, close } = await this.openContent(name);
    const stream = Readable.from(writeStream(header, read), { objectMode: false, highWaterMark: CHUNK_SIZE });
    stream.once('error', (error) => log.error('volume.export_failed', { volume: name, reason: messageOf(error) }));
    stream.once('close', () => void close());
    return stream;
  }

  /** XXH3-128 of a volume's content. */
  async digest(name: string, signal: AbortSignal): Promise<Omit<StreamResult, 'stored'>> {
    const { header, read, close } = await this.openContent(name);
    try {
      const hash = contentHash();
      const buffer = Buffer.allocUnsafe(CHUNK_SIZE);
      for (let position = 0; position < header.size; position += CHUNK_SIZE) {
        signal.throwIfAborted();
        const content = buffer.subarray(0, Math.min(CHUNK_SIZE, header.size - position));
        await read(content, position);
        hash.update(content);
      }
      return { bytes: header.size, digest: hash.digest().toString('hex') };
    } finally {
      await close();
    }
  }

  /** A new volume out of a stream. What is left of `source` after an error is the caller's. */
  async import(name: string, source: Readable): Promise<StreamResult> {
    this.assertNone(name);
    this.imports.add(name);
    try {
      const path = `${this.options.volumeDir}/${name}.raw`;
      await this.assertFree(name, path);
      return await this.receive(name, path, source);
    } finally {
      this.imports.delete(name);
    }
  }

  /** Removes what imports of an earlier life left; none is under way. */
  async removeRemains(): Promise<void> {
    const { volumeDir, log } = this.options;
    try {
      for (const path of await findRemains(volumeDir)) {
        await rm(path, { force: true });
        log.warn('volume.import_removed', { path });
      }
    } catch (error) {
      log.error('volume.import_unremoved', { dir: volumeDir, reason: messageOf(error) });
    }
  }

  private async assertFree(name: string, path: string): Promise<void> {
    const fileExists = await exists(path);
    const { volumes } = this.options.store.desired();
    if (volumes.some((other) => other.name === name)) {
      throw refuse('volume_exists', `the volume ${name} exists`, { volume: name });
    }
    const owner = volumes.find((other) => other.path === path);
    if (owner !== undefined) {
      throw refuse('volume_path_taken', `${path} belongs to the volume ${owner.name}`, { volume: owner.name });
    }
    if (fileExists) {
      throw refuse('volume_file_exists', `${path} exists`, { volume: name, path });
    }
  }

  private async receive(name: string, path: string, source: Readable): Promise<StreamResult> {
    const { store, supervisor, log, applyTimeoutMs } = this.options;
    const file = new ImportFile(path);
    let result: StreamResult;
    try {
      // Left open after an error, so that the client still hears of it over the same connection.
      result = await readStream(source.iterator({ destroyOnReturn: false }), file);
      await file.keep();
      const fixed = {
        kind: 'file',
        blockSize: SECTOR,
        readOnly: false,
        adopted: false,
        geometry: null,
        fault: null,
        ioTimeoutMs: 0,
        limit: NO_LIMIT,
        worker: null,
      } as const;
      store.addVolume({ name, path, size: result.bytes, phase: 'ready', ...fixed });
    } catch (error) {
      await file.drop().catch((reason) => {
        log.error('volume.import_unremoved', { volume: name, reason: messageOf(reason) });
      });
      throw error === source.errored ? refuse('transfer_broken', `the client went away: ${messageOf(error)}`) : error;
    }
    log.info('volume.imported', { volume: name, ...result });
    await supervisor.apply(applyTimeoutMs);
    return result;
  }

  private async openContent(name: string): Promise<Content> {
    const { path, header } = this.findReadable(name);
    this.readers.set(name, (this.readers.get(name) ?? 0) + 1);
    let handle: FileHandle;
    try {
      handle = await open(path, 'r');
    } catch (error) {
      this.release(name);
      throw refuse('storage_failed', `${path} cannot be opened: ${messageOf(error)}`, { path });
    }
    return {
      header,
      read: (buffer, position) => readAll(handle, buffer, position, path),
      close: async () => {
        this.release(name);
        await handle.close();
      },
    };
  }

  /** A volume that holds still. */
  private findReadable(name: string): { path: string; header: StreamHeader } {
    const { store, supervisor } = this.options;
    const { volumes, attachments } = store.desired();
    const { path, size, blockSize, geometry, phase } = findVolume(volumes, name);
    if (path === null) {
      throw refuse('volume_without_file', `the volume ${name} has no file`, { volume: name });
    }
    if (phase === 'deleting') {
      throw refuse('volume_deleting', `the volume ${name} is being removed`);
    }
    assertUnused(
      name,
      attachments.filter(({ volume, readOnly }) => volume === name && !readOnly),
    );
    // An open volume is locked by our engine: no predecessor has writes under way.
    if (!supervisor.isVolumeOpen(name) || supervisor.hasWriter(name)) {
      const why = supervisor.isVolumeOpen(name) ? 'has not let go of' : 'does not have open';
      throw refuse('volume_not_ready', `the engine ${why} the volume ${name}`, { volume: name });
    }
    return { path, header: { name, size: geometry?.size ?? size, blockSize: geometry?.blockSize ?? blockSize } };
  }

  private release(name: string): void {
    const left = (this.readers.get(name) ?? 1) - 1;
    if (left === 0) {
      this.readers.delete(name);
    } else {
      this.readers.set(name, left);
    }
  }
}

async function readAll(handle: FileHandle, buffer: Buffer, position: number, path: string): Promise<void> {
  for (let done = 0; done < buffer.length; ) {
    const at = position + done;
    const { bytesRead } = await handle.read(buffer, done, buffer.length - done, at).catch((error: unknown) => {
      throw refuse('storage_failed', `${path} cannot be read at byte ${at}: ${messageOf(error)}`, { path });
    });
    if (bytesRead === 0) {
      throw refuse('storage_failed', `${path} ends at byte ${at}`, { path });
    }
    done += bytesRead;
  }
}
