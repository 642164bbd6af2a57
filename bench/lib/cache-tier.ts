// What a tier of packed blocks in the cache would gain and cost: half of the memory holds blocks as they are, half
// holds cold ones packed with LZ4. Both are bounds in its favour: its hits are those of one cache as large as all of
// what it holds, its index is free, and a block is packed only when a read misses, not each time one turns cold.
import { closeSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import lz4 from 'lz4';
import { BenchError } from './errors.js';
import { layOut } from './table.js';

const BLOCK = 4096;
/** Programs, libraries, texts: what a VM's disk is full of. */
const PLACES = ['/usr/bin', '/usr/lib', '/usr/share'] as const;
const SAMPLE_BLOCKS = 16_384;
/** One block of so many. */
const EVERY = 16;
const NS_PER_US = 1000;

export interface Packing {
  /** Of the sample; a block that does not get smaller is kept as it is. */
  blocks: number;
  ratio: number;
  /** CPU time of a block. */
  pack_ns: number;
  unpack_ns: number;
}

/** Of a workload and a cache of this part of what it touches. */
export interface TierGain {
  workload: string;
  part: number;
  hit_ratio: number;
  /** At most, with the tier. */
  tier_hit_ratio: number;
  /** CPU time per read that the tier takes, at least. */
  ns_per_read: number;
  /** How long the storage must take for a read before the mean read gets faster: null: it never does. */
  break_even_us: number | null;
}

interface Replay {
  workload: string;
  policy: string;
  part: number;
  hit_ratio: number;
}

export function measurePacking(): Packing {
  const blocks = sample();
  if (blocks.length === 0) {
    throw new BenchError(`there are no files in ${PLACES.join(', ')} to take blocks from`);
  }
  const scratch = blocks.map(() => Buffer.alloc(BLOCK));
  let packed: Buffer[] = [];
  const pack = () => {
    // 0: it would not get smaller
    packed = scratch.map((buffer, i) => buffer.subarray(0, lz4.encodeBlock(blocks[i] ?? buffer, buffer)));
  };
  const packNs = cpuNsOfSecond(pack);
  const out = Buffer.alloc(BLOCK);
  const smaller = packed.filter(({ length }) => length > 0);
  const unpackNs = cpuNsOfSecond(() => {
    for (const part of smaller) {
      lz4.decodeBlock(part, out);
    }
  });
  const stored = packed.reduce((sum, { length }) => sum + (length || BLOCK), 0);
  return {
    blocks: blocks.length,
    ratio: (blocks.length * BLOCK) / stored,
    pack_ns: packNs / blocks.length,
    unpack_ns: unpackNs / Math.max(smaller.length, 1),
  };
}

/** How much larger than its memory a cache is of which half is packed. */
export const tierFactor = ({ ratio }: Packing): number => (1 + ratio) / 2;

/** `larger`: replays on caches so much larger as the tier holds more. */
export function tierGains(packing: Packing, replays: readonly Replay[], larger: readonly Replay[]): TierGain[] {
  return replays.flatMap(({ workload, policy, part, hit_ratio }) => {
    const tier = larger.find((row) => row.workload === workload && row.policy === policy && row.part === part);
    if (tier === undefined || policy !== 's3fifo') {
      return [];
    }
    const gained = tier.hit_ratio - hit_ratio;
    const ns = (1 - tier.hit_ratio) * packing.pack_ns + Math.max(gained, 0) * packing.unpack_ns;
    return [
      {
        ...{ workload, part, hit_ratio },
        tier_hit_ratio: tier.hit_ratio,
        ns_per_read: ns,
        break_even_us: gained > 0 ? ns / gained / NS_PER_US : null,
      },
    ];
  });
}

export function formatTier(packing: Packing, gains: readonly TierGain[]): string {
  const { blocks, ratio, pack_ns, unpack_ns } = packing;
  const percent = (value: number) => (value * 100).toFixed(1);
  const lines = gains.map((row) => [
    row.workload,
    `${percent(row.part)} %`,
    `${percent(row.hit_ratio)} %`,
    `${percent(row.tier_hit_ratio)} %`,
    (row.ns_per_read / NS_PER_US).toFixed(1),
    row.break_even_us === null ? 'never' : row.break_even_us.toFixed(0),
  ]);
  const heading = ['', 'cache', 'hits', 'with a tier', 'us/read', 'pays above, us'];
  return [
    `a tier packed with LZ4, half of the memory: ${blocks} blocks of 4 KiB pack ${ratio.toFixed(2)} : 1, ` +
      `${Math.round(pack_ns)} ns to pack, ${Math.round(unpack_ns)} ns to unpack`,
    ...layOut([heading, ...lines], 1),
    '',
  ].join('\n');
}

/** The first time warms up. */
function cpuNsOfSecond(work: () => void): number {
  work();
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) * NS_PER_US;
}

function sample(): Buffer[] {
  const blocks: Buffer[] = [];
  const share = SAMPLE_BLOCKS / PLACES.length;
  for (const [i, place] of PLACES.entries()) {
    for (const file of filesOf(place)) {
      if (blocks.length >= share * (i + 1)) {
        break;
      }
      take(file, blocks);
    }
  }
  return blocks;
}

function* filesOf(folder: string): Generator<string> {
  for (const entry of readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      yield* filesOf(path);
    } else if (entry.isFile()) {
      yield path;
    }
  }
}

function take(file: string, blocks: Buffer[]): void {
  const { size } = statSync(file);
  const fd = openSync(file, 'r');
  for (let at = 0; at < size; at += EVERY * BLOCK) {
    const block = Buffer.alloc(BLOCK); // the rest of a file's last block is zeroes
    readSync(fd, block, 0, BLOCK, at);
    blocks.push(block);
  }
  closeSync(fd);
}
