// Axes: where a value stands, and which values get a tick.

export interface Scale {
  /** Position of a value, in pixels. */
  at(value: number): number;
  ticks: readonly number[];
}

const NICE_STEPS = [1, 2, 2.5, 5, 10];
const TICKS_WANTED = 5;

/** From 0 to at least `max`; the last tick is the end. */
export function linearScale(max: number, from: number, to: number): Scale {
  const step = niceStep(max > 0 ? max : 1);
  const count = Math.max(1, Math.ceil((max > 0 ? max : 1) / step - 1e-9));
  const end = step * count;
  return {
    at: (value) => from + (value / end) * (to - from),
    ticks: Array.from({ length: count + 1 }, (_, index) => index * step),
  };
}

function niceStep(max: number): number {
  const raw = max / TICKS_WANTED;
  const magnitude = 10 ** Math.floor(Math.log10(raw));
  const nice = NICE_STEPS.find((step) => step * magnitude >= raw * (1 - 1e-9)) ?? 10;
  return nice * magnitude;
}

/**
 * From `min` to `max`, both above 0. Ticks are the powers of ten, with 2 and 5 times them where the range is short;
 * the axis ends at a tick's place or at the value, whichever is further out.
 */
export function logScale(min: number, max: number, from: number, to: number): Scale {
  const decades = Math.log10(max / min);
  const factors = decades > 2.5 ? [1] : decades > 1.5 ? [1, 5] : [1, 2, 5];
  const [low, high] = [Math.floor(Math.log10(min)), Math.ceil(Math.log10(max))];
  const all: number[] = [];
  for (let exponent = low; exponent <= high; exponent++) {
    all.push(...factors.map((factor) => factor * 10 ** exponent));
  }
  const start = all.filter((tick) => tick <= min * (1 + 1e-9)).at(-1) ?? min;
  const end = all.find((tick) => tick >= max * (1 - 1e-9)) ?? max;
  const span = end > start ? Math.log(end / start) : 1;
  return {
    at: (value) => from + (Math.log(value / start) / span) * (to - from),
    ticks: all.filter((tick) => tick >= start && tick <= end),
  };
}

/** Each of the values has the same room, whatever lies between: for powers of two. */
export function stepScale(values: readonly number[], from: number, to: number): Scale {
  const sorted = [...new Set(values)].sort((a, b) => a - b);
  const [first = 1, last = 2] = [sorted[0], sorted.at(-1)];
  const span = last > first ? Math.log(last / first) : 1;
  return { at: (value) => from + (Math.log(value / first) / span) * (to - from), ticks: sorted };
}

/** 1500000 -> "1.5M", 0.25 -> "0.25" */
export function short(value: number): string {
  const units = [
    [1e9, 'G'],
    [1e6, 'M'],
    [1e3, 'k'],
  ] as const;
  const [divisor, unit] = units.find(([size]) => Math.abs(value) >= size) ?? [1, ''];
  const scaled = value / divisor;
  const digits = Math.abs(scaled) >= 100 ? 0 : Math.abs(scaled) >= 10 ? 1 : 2;
  return `${Number(scaled.toFixed(digits))}${unit}`;
}
