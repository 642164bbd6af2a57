// Sizes as operators write them: `10G`, `512M`, `4096`, in binary units.

export const SIZE_UNITS = ['B', 'K', 'M', 'G', 'T', 'P'] as const;

/** Bytes; undefined when it is no such text, or not whole in bytes. */
export function sizeOf(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?$/i.exec(text.trim());
  const unit = SIZE_UNITS.findIndex((name) => name === (match?.[2] || 'B').toUpperCase());
  const bytes = match === null ? Number.NaN : Number(match[1]) * 1024 ** unit;
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

export function formatSize(bytes: number): string {
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < SIZE_UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  const text = Number.isInteger(value) ? String(value) : value.toFixed(1);
  return `${text}${unit === 0 ? '' : SIZE_UNITS[unit]}`;
}

/** Bytes of a size in a configuration, whose schema has checked it. */
export const bytesOf = (size: number | string): number => (typeof size === 'number' ? size : (sizeOf(size) ?? 0));
