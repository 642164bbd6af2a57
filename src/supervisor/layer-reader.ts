// Reads what a volume holds out of its files, beside the engine: the files hold still, and everything is in them.
// The format of an overlay is docs/layers.md's; native/layers/ writes it.
import { type FileHandle, open } from 'node:fs/promises';
import { messageOf, type OutriggerError, refuse } from '../errors.js';
import { CLUSTER, type Layer } from './model.js';

const MAP_OFFSET = 4096;
const HEADER_SIZE = 40;
const MAGIC = Buffer.from('OROVERLY');
const VERSION = 1;
/** Of the map. */
const [BELOW, HERE, ZEROES] = [0, 1, 2];

/** Of a run of clusters: an opened layer, or null for zeroes. */
type Source = OpenLayer | null;

export class LayerReader {
  private readonly layers: readonly OpenLayer[];

  private constructor(layers: readonly OpenLayer[]) {
    this.layers = layers;
  }

  /** Head first. Throws storage_failed. */
  static async open(layers: readonly Layer[]): Promise<LayerReader> {
    const opened: OpenLayer[] = [];
    try {
      for (const layer of layers) {
        opened.push(await OpenLayer.open(layer));
      }
      return new LayerReader(opened);
    } catch (error) {
      await Promise.all(opened.map((layer) => layer.close()));
      throw error;
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.layers.map((layer) => layer.close()));
  }

  /** Fills `buffer` from `position`, the beginning of a cluster. Throws storage_failed. */
  async read(buffer: Buffer, position: number): Promise<void> {
    const sources = await this.sourcesOf(position / CLUSTER, Math.ceil(buffer.length / CLUSTER));
    for (let from = 0; from < sources.length; ) {
      const source = sources[from];
      let to = from + 1;
      while (to < sources.length && sources[to] === source) {
        to++;
      }
      const run = buffer.subarray(from * CLUSTER, to * CLUSTER);
      if (source) {
        await source.readData(run, position + from * CLUSTER);
      } else {
        run.fill(0);
      }
      from = to;
    }
  }

  private async sourcesOf(first: number, count: number): Promise<Source[]> {
    const sources: (Source | undefined)[] = Array.from({ length: count });
    for (const layer of this.layers) {
      if (!sources.includes(undefined)) {
        break;
      }
      const entries = await layer.readMap(first, count);
      for (const [i, entry] of entries.entries()) {
        if (sources[i] === undefined && entry !== BELOW) {
          sources[i] = entry === HERE ? layer : null;
        }
      }
    }
    return sources.map((source) => source ?? null);
  }
}

class OpenLayer {
  private readonly layer: Layer;
  private readonly handle: FileHandle;
  private dataOffset = 0;

  private constructor(layer: Layer, handle: FileHandle) {
    this.layer = layer;
    this.handle = handle;
  }

  static async open(layer: Layer): Promise<OpenLayer> {
    const { path } = layer;
    const handle = await open(path, 'r').catch((error: unknown) => {
      throw refuse('storage_failed', `${path} cannot be opened: ${messageOf(error)}`, { path });
    });
    const opened = new OpenLayer(layer, handle);
    try {
      await opened.check();
      return opened;
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  close(): Promise<void> {
    return this.handle.close();
  }

  /** Entries of clusters; beyond the end there are zeroes. */
  async readMap(first: number, count: number): Promise<Uint8Array> {
    const { raw, size } = this.layer;
    const inside = Math.min(Math.max(Math.ceil(size / CLUSTER) - first, 0), count);
    const entries = new Uint8Array(count).fill(ZEROES);
    if (raw) {
      return entries.fill(HERE, 0, inside);
    }
    const from = Math.floor(first / 4);
    const bytes = Buffer.allocUnsafe(Math.ceil((first + inside) / 4) - from);
    await this.readAll(bytes, MAP_OFFSET + from);
    for (let i = 0; i < inside; i++) {
      const cluster = first + i;
      const entry = ((bytes[Math.floor(cluster / 4) - from] ?? 0) >> ((cluster % 4) * 2)) & 3;
      if (entry > ZEROES) {
        throw this.damaged(`its map is wrong at cluster ${cluster}`);
      }
      entries[i] = entry;
    }
    return entries;
  }

  /** Of clusters that are here; beyond the end there are zeroes. */
  async readData(buffer: Buffer, position: number): Promise<void> {
    const inside = Math.min(buffer.length, Math.max(this.layer.size - position, 0));
    await this.readAll(buffer.subarray(0, inside), this.dataOffset + position);
    buffer.fill(0, inside);
  }

  private async check(): Promise<void> {
    const { raw, size, content, header: named = content } = this.layer;
    if (raw) {
      return;
    }
    const header = Buffer.allocUnsafe(HEADER_SIZE);
    await this.readAll(header, 0);
    const [version, cluster] = [header.readUInt32LE(8), header.readUInt32LE(12)];
    if (!header.subarray(0, 8).equals(MAGIC) || version !== VERSION || cluster !== CLUSTER) {
      throw this.damaged('it is no layer of this version');
    }
    const found = header.readBigUInt64LE(32).toString(16).padStart(16, '0');
    if (found !== named || Number(header.readBigUInt64LE(16)) !== size) {
      throw this.damaged(`it is another layer, ${found}`);
    }
    this.dataOffset = Number(header.readBigUInt64LE(24));
  }

  private async readAll(buffer: Buffer, position: number): Promise<void> {
    for (let done = 0; done < buffer.length; ) {
      const at = position + done;
      const { bytesRead } = await this.handle.read(buffer, done, buffer.length - done, at).catch((error: unknown) => {
        throw this.failed(`cannot be read at byte ${at}: ${messageOf(error)}`);
      });
      if (bytesRead === 0) {
        throw this.failed(`ends at byte ${at}`);
      }
      done += bytesRead;
    }
  }

  private damaged(why: string): OutriggerError {
    return this.failed(`cannot be used: ${why}`);
  }

  private failed(why: string): OutriggerError {
    const { path } = this.layer;
    return refuse('storage_failed', `${path} ${why}`, { path });
  }
}
