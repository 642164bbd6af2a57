// The file of an overlay, made byte by byte: docs/layers.md has its format.
import { type FileHandle, open } from 'node:fs/promises';
import type { Layer } from '../../../src/supervisor/model.js';

export const CLUSTER = 4096;
const DATA = 1 << 20;

/** clusters: by number, what is here; null: zeroes. */
export async function writeOverlay(
  { path, content, size }: Pick<Layer, 'path' | 'content' | 'size'>,
  clusters: ReadonlyMap<number, Buffer | null>,
): Promise<void> {
  const header = Buffer.alloc(CLUSTER);
  header.write('OROVERLY');
  header.writeUInt32LE(1, 8);
  header.writeUInt32LE(CLUSTER, 12);
  header.writeBigUInt64LE(BigInt(size), 16);
  header.writeBigUInt64LE(BigInt(DATA), 24);
  header.writeBigUInt64LE(BigInt(`0x${content}`), 32);
  const map = Buffer.alloc(Math.ceil(size / CLUSTER / 4));
  const file = await open(path, 'w');
  for (const [cluster, bytes] of clusters) {
    const at = Math.floor(cluster / 4);
    map[at] = (map[at] ?? 0) | ((bytes === null ? 2 : 1) << ((cluster % 4) * 2));
    await writeAt(file, bytes ?? Buffer.alloc(0), DATA + cluster * CLUSTER);
  }
  await writeAt(file, header, 0);
  await writeAt(file, map, CLUSTER);
  await file.truncate(DATA + Math.ceil(size / CLUSTER) * CLUSTER);
  await file.close();
}

export const writeAt = (file: FileHandle, bytes: Buffer, position: number) =>
  file.write(bytes, 0, bytes.length, position);
