// Rates: how they are compared, merged and kept.
import type { Limit } from './protocol.js';

export const NO_LIMIT: Limit = { bytesPerS: 0, bytesBurst: 0, opsPerS: 0, opsBurst: 0 };

export function sameLimit(a: Limit, b: Limit): boolean {
  return (Object.keys(NO_LIMIT) as (keyof Limit)[]).every((key) => a[key] === b[key]);
}

export const isUnlimited = (limit: Limit): boolean => limit.bytesPerS === 0 && limit.opsPerS === 0;

/** The changes win; a rate that is taken away takes its burst along. */
export function mergeLimit(limit: Limit, changes: Partial<Limit>): Limit {
  const merged = { ...limit, ...changes };
  return {
    ...merged,
    bytesBurst: merged.bytesPerS === 0 ? 0 : merged.bytesBurst,
    opsBurst: merged.opsPerS === 0 ? 0 : merged.opsBurst,
  };
}
