// Volumes that leave and come as streams: export, digest, import. The supervisor reads a volume's files itself,
// beside the engine, so nobody may write to it meanwhile: neither an attachment nor an engine that has not
// followed a detach yet, and while it is read no attachment may begin to. A snapshot holds still by itself. An
// import makes a volume, and the volume exists from the moment that its whole content is on the disk and was
// checked.
import { rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { messageOf, refuse } from '../errors.js';
import { CHUNK_SIZE, contentHash, type StreamHeader, type StreamResult } from '../stream/format.js';
import { readStream } from '../stream/reader.js';
import { writeStream } from '../stream/writer.js';
import type { Logger } from '../telemetry/log.js';
import { CACHE_DEFAULT } from './cache.js';
import { findRemains, ImportFile } from './import-file.js';
import type { IohvSupervisor } from './iohv-supervisor.js';
import { LayerReader } from './layer-reader.js';
import { NO_LIMIT } from './limits.js';
import { headOf, type Layer } from './model.js';
import { assertUnused, findVolume, ownerOf, rawLayers } from './operations.js';
import { findSnapshot, snapshotName } from './snapshots.js';
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

interface Found {
  layers: Layer[];
  header: StreamHeader;
}

export class Transfers {
  private readonly options: TransfersOptions;
  /** Name of a volume or snapshot -> exports and digests under way. */
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

  /** The stream of a volume, or of a snapshot of it. Destroying it ends the export. */
  async export(name: string, snapshot: string | null = null): Promise<Readable> {
    const { log } = this.options;
    const { header, read, close } = await this.openContent(name, snapshot);
    const stream = Readable.from(writeStream(header, read), { objectMode: false, highWaterMark: CHUNK_SIZE });
    stream.once('error', (error) => log.error('volume.export_failed', { volume: name, reason: messageOf(error) }));
    stream.once('close', () => void close());
    return stream;
  }

  /** XXH3-128 of the content of a volume or snapshot. */
  async digest(name: string, snapshot: string | null, signal: AbortSignal): Promise<Omit<StreamResult, 'stored'>> {
    const { header, read, close } = await this.openContent(name, snapshot);
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
    const desired = this.options.store.desired();
    if (desired.volumes.some((other) => other.name === name)) {
      throw refuse('volume_exists', `the volume ${name} exists`, { volume: name });
    }
    const owner = ownerOf(path, desired);
    if (owner !== undefined) {
      throw refuse('volume_path_taken', `${path} belongs to the volume ${owner}`, { volume: owner });
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
        cache: CACHE_DEFAULT,
        worker: null,
        base: null,
      } as const;
      const size = result.bytes;
      const layers = rawLayers({ path, size, adopted: false });
      store.addVolume({ name, path, size, phase: 'ready', ...fixed, layers });
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

  private async openContent(name: string, snapshot: string | null): Promise<Content> {
    const find = () => (snapshot === null ? this.findReadable(name) : this.findSealed(name, snapshot));
    const key = snapshotName(name, snapshot);
    this.readers.set(key, (this.readers.get(key) ?? 0) + 1);
    let opened: { reader: LayerReader; header: StreamHeader };
    try {
      opened = await openLayers(find);
    } catch (error) {
      this.release(key);
      throw error;
    }
    const { reader, header } = opened;
    const close = async () => {
      this.release(key);
      await reader.close();
    };
    try {
      if (snapshot === null) {
        await this.options.supervisor.flushVolume(name);
      }
    } catch (error) {
      await close();
      throw error;
    }
    return { header, read: (buffer, position) => reader.read(buffer, position), close };
  }

  /** What a snapshot holds is in its files for ever. */
  private findSealed(name: string, snapshot: string): Found {
    const { store, supervisor } = this.options;
    const desired = store.desired();
    const volume = findVolume(desired.volumes, name);
    const { layers } = findSnapshot(desired, name, snapshot);
    if (supervisor.isBehind(volume)) {
      throw refuse('volume_cutting', `a snapshot of the volume ${name} is being taken`, { volume: name });
    }
    const { size } = headOf({ name, layers });
    return { layers, header: { name, size, blockSize: volume.geometry?.blockSize ?? volume.blockSize } };
  }

  /** A volume that holds still. */
  private findReadable(name: string): Found {
    const { store, supervisor } = this.options;
    const { volumes, attachments } = store.desired();
    const { layers, size, blockSize, geometry, phase } = findVolume(volumes, name);
    if (layers.length === 0) {
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
    const content = { size: geometry?.size ?? size, blockSize: geometry?.blockSize ?? blockSize };
    return { layers: withSize(layers, content.size), header: { name, ...content } };
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

/** When a merge takes a file away meanwhile, those that have its content now; open, they stay as they are. */
async function openLayers(find: () => Found): Promise<{ reader: LayerReader; header: StreamHeader }> {
  for (;;) {
    const { layers, header } = find();
    try {
      return { reader: await LayerReader.open(layers), header };
    } catch (error) {
      if (samePaths(find().layers, layers)) {
        throw error;
      }
    }
  }
}

const samePaths = (a: readonly Layer[], b: readonly Layer[]) =>
  a.length === b.length && a.every(({ path }, index) => path === b[index]?.path);

/** The head's is the volume's: an adopted file may have grown. */
function withSize([head, ...below]: readonly Layer[], size: number): Layer[] {
  return head === undefined ? [] : [{ ...head, size }, ...below];
}
