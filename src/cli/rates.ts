// Rates on the command line: `--rate tx=100M,rx=1G,tx-pps=20K,burst=256K` of NICs, `--iops` and `--bps` of disks.
import type { NicRate, RateChange } from '../api/nic-schemas.js';
import type { VolumeRate } from '../api/schemas.js';
import { suggest } from '../config/suggest.js';
import { refuse } from '../errors.js';
import { formatSize, parseSize } from './format.js';

const DECIMAL = ['', 'K', 'M', 'G', 'T'];

/** `20K`, `1.5M`: decimal units; 0 for `none`. */
export function parseCount(text: string, option: string): number {
  if (text === 'none') {
    return 0;
  }
  const match = /^(\d+(?:\.\d+)?)([KMGT]?)$/i.exec(text);
  const count =
    match === null ? Number.NaN : Number(match[1]) * 1000 ** DECIMAL.indexOf((match[2] ?? '').toUpperCase());
  if (!Number.isSafeInteger(count) || count <= 0) {
    throw refuse('usage', `${option} ${text} is not a number such as 500, 20K or 1.5M (decimal units), or none`, {
      command: '',
    });
  }
  return count;
}

export function formatCount(count: number): string {
  let [value, unit] = [count, 0];
  while (value >= 1000 && unit < DECIMAL.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${Number(value.toFixed(2))}${DECIMAL[unit]}`;
}

/** Bytes of a burst; 0 for `default`. */
function parseBurst(text: string, option: string): number {
  return text === 'default' ? 0 : parseSize(text, option);
}

/** `100M` or `100Mbit`: bits per second, as networks are rated. */
function parseBits(text: string, option: string): number {
  return Math.ceil(parseCount(text.replace(/bit$/i, ''), option) / 8) * 8;
}

const RATE_KEYS = ['tx', 'rx', 'tx-pps', 'rx-pps', 'tx-burst', 'rx-burst', 'burst'];
const KNOWN_RATES = 'tx=100M, rx=1G, tx-pps=20K, rx-pps=20K, burst=256K, tx-burst=256K, rx-burst=256K, and none';
const NO_RATE: NicRate = { bits_per_s: 0, burst_bytes: 0, packets_per_s: 0, burst_packets: 0 };

/** `tx=100M,rx=1G,tx-pps=20K,burst=256K`; `none`: no limit at all. */
export function parseRate(text: string): RateChange {
  if (text === 'none') {
    return { tx: NO_RATE, rx: NO_RATE };
  }
  const change: { tx: Partial<NicRate>; rx: Partial<NicRate> } = { tx: {}, rx: {} };
  for (const part of text.split(',')) {
    const [key = '', value] = part.split('=', 2);
    const option = `--rate ${key}`;
    if (!RATE_KEYS.includes(key) || value === undefined) {
      const meant = suggest(key, RATE_KEYS);
      const what = `unknown \`${part}\`${meant ? ` (${meant}?)` : ''}`;
      throw refuse('usage', `--rate ${text}: ${what}, known are ${KNOWN_RATES}`, { command: 'nic set' });
    }
    const [first, what] = key.split('-');
    if (what === 'pps') {
      change[first as 'tx' | 'rx'].packets_per_s = parseCount(value, option);
    } else if (what === 'burst') {
      change[first as 'tx' | 'rx'].burst_bytes = parseBurst(value, option);
    } else if (first === 'burst') {
      change.tx.burst_bytes = parseBurst(value, option);
      change.rx.burst_bytes = parseBurst(value, option);
    } else {
      change[first as 'tx' | 'rx'].bits_per_s = parseBits(value, option);
    }
  }
  return change;
}

export function formatRate({ bits_per_s, burst_bytes, packets_per_s, burst_packets }: NicRate): string {
  const parts = [
    ...(bits_per_s === 0 ? [] : [`${formatCount(bits_per_s)}bit/s`]),
    ...(burst_bytes === 0 ? [] : [`bursts of ${formatSize(burst_bytes)}`]),
    ...(packets_per_s === 0 ? [] : [`${formatCount(packets_per_s)} packets/s`]),
    ...(burst_packets === 0 ? [] : [`bursts of ${formatCount(burst_packets)}`]),
  ];
  return parts.join(', ') || 'no limit';
}

export const DISK_RATE_OPTIONS = {
  iops: { type: 'string', describe: 'requests per second of each disk that it is: 500, 20K (decimal); none: no limit' },
  bps: { type: 'string', describe: 'bytes per second, likewise: 100M (binary); none: no limit' },
  'iops-burst': { type: 'string', describe: "requests at once after a pause; default: a tenth of a second's worth" },
  'bps-burst': { type: 'string', describe: "bytes at once after a pause; default: a tenth of a second's worth" },
} as const;

export interface DiskRateArgs {
  iops?: string | undefined;
  bps?: string | undefined;
  iopsBurst?: string | undefined;
  bpsBurst?: string | undefined;
}

/** undefined: nothing is said about the rate. */
export function parseDiskRate({ iops, bps, iopsBurst, bpsBurst }: DiskRateArgs): Partial<VolumeRate> | undefined {
  const burstCount = (text: string) => (text === 'default' ? 0 : parseCount(text, '--iops-burst'));
  const change: Partial<VolumeRate> = {
    ...(iops === undefined ? {} : { iops: parseCount(iops, '--iops') }),
    ...(bps === undefined ? {} : { bytes_per_s: bps === 'none' ? 0 : parseSize(bps, '--bps') }),
    ...(iopsBurst === undefined ? {} : { burst_ops: burstCount(iopsBurst) }),
    ...(bpsBurst === undefined ? {} : { burst_bytes: parseBurst(bpsBurst, '--bps-burst') }),
  };
  return Object.keys(change).length === 0 ? undefined : change;
}

export function formatDiskRate({ bytes_per_s, burst_bytes, iops, burst_ops }: VolumeRate): string {
  const parts = [
    ...(iops === 0 ? [] : [`${formatCount(iops)} IOPS`]),
    ...(burst_ops === 0 ? [] : [`bursts of ${formatCount(burst_ops)}`]),
    ...(bytes_per_s === 0 ? [] : [`${formatSize(bytes_per_s)}/s`]),
    ...(burst_bytes === 0 ? [] : [`bursts of ${formatSize(burst_bytes)}`]),
  ];
  return parts.join(', ') || 'no limit';
}
