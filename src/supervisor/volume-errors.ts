// Storage errors of volumes: how they are counted, and how they are told to the operator.
import type { VolumeError, VolumeRow } from './protocol.js';

export function noteVolumeError(volumes: Map<string, VolumeRow>, error: VolumeError): void {
  const row = volumes.get(error.volume);
  if (row !== undefined) {
    const flushFailed = row.flushFailed || error.flushFailed;
    volumes.set(error.volume, { ...row, errors: row.errors + error.count, lastError: error, flushFailed });
  }
}

/** "write at 4096: EIO" */
export function describeVolumeError({ op, offset, error }: VolumeError): string {
  return op === 'flush' ? `flush: ${error}` : `${op} at ${offset}: ${error}`;
}

/** Why acknowledged data of the volume may be lost. */
export function faultOf(error: VolumeError): string {
  return error.op === 'read' ? `its file became shorter (${describeVolumeError(error)})` : describeVolumeError(error);
}
