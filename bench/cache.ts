// Question: how often does the block cache have what is asked for, by policy and size, and what does it cost?
// native/cache makes or reads the traces, replays them on the cache itself, and times hits and misses.
import { existsSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { run } from '../test/lab/command.js';
import { repoRoot } from '../test/lab/paths.js';
import { formatTier, measurePacking, tierFactor, tierGains } from './lib/cache-tier.js';
import { BenchError } from './lib/errors.js';
import { onServerCpu } from './lib/system.js';
import { layOut } from './lib/table.js';

const CACHEBENCH = `${repoRoot}/build-rel/cachebench`;
const TIMEOUT_MS = 1_800_000;
const MIB = 2 ** 20;

export interface CacheOptions {
  /** Files of the format that bench/README.md describes. */
  traces: readonly string[];
  workload: string;
  /** Also what a compressed tier would gain and cost. */
  tier: boolean;
  json: string | undefined;
}

/** A trace on a cache of one policy and size. */
export interface Replay {
  workload: string;
  about: string;
  policy: string;
  bytes: number;
  /** Of the bytes that the trace touches. */
  part: number;
  reads: number;
  hits: number;
  hit_ratio: number;
  shared_hits: number;
  fetched: number;
  ns_per_access: number;
  metadata_per_byte: number;
}

export interface Cost {
  cost: string;
  policy: string;
  ns: number;
}

export async function benchCache({ traces, workload, tier, json }: CacheOptions): Promise<void> {
  if (!existsSync(CACHEBENCH)) {
    throw new BenchError(`${CACHEBENCH} is missing: start with \`npm run bench\``);
  }
  const costs = workload === '' && traces.length === 0 ? await measure<Cost>(['costs']) : [];
  const replayAll = async (times: number) => {
    const made = traces.length === 0 || workload !== '';
    const replays = made ? await measure<Replay>(['workloads', workload, String(times)]) : [];
    for (const trace of traces) {
      replays.push(...(await measure<Replay>(['trace', resolve(trace), String(times)])));
    }
    return replays;
  };
  const replays = await replayAll(1);
  if (replays.length === 0) {
    throw new BenchError(`there is nothing to replay: no workload ${workload}, or traces of less than 2 MiB`);
  }
  process.stdout.write(`${[formatReplays(replays), formatCosts(costs)].filter((part) => part !== '').join('\n')}`);
  const packing = tier ? measurePacking() : undefined;
  const gains = packing && tierGains(packing, replays, await replayAll(tierFactor(packing)));
  if (packing !== undefined && gains !== undefined) {
    process.stdout.write(`\n${formatTier(packing, gains)}`);
  }
  if (json !== undefined) {
    writeFileSync(json, `${JSON.stringify({ bench: 'cache', replays, costs, packing, gains }, null, 1)}\n`);
  }
}

async function measure<T>(args: readonly string[]): Promise<T[]> {
  const { status, stdout, stderr } = await run(onServerCpu([CACHEBENCH, ...args]), TIMEOUT_MS);
  if (status !== 0) {
    throw new BenchError(stderr.trim() || `cachebench ${args.join(' ')}: ended with status ${status}`);
  }
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as T);
}

/** A table for each workload: a line for each size, a column for each policy. */
export function formatReplays(replays: readonly Replay[]): string {
  const policies = [...new Set(replays.map(({ policy }) => policy))];
  const tables = [...new Set(replays.map(({ workload }) => workload))].map((workload) => {
    const rows = replays.filter((row) => row.workload === workload);
    const sizes = [...new Set(rows.map(({ bytes }) => bytes))];
    const lines = sizes.map((bytes) => {
      const same = rows.filter((row) => row.bytes === bytes);
      const cells = policies.map((policy) => formatRatio(same.find((row) => row.policy === policy)));
      const metadata = `${((same[0]?.metadata_per_byte ?? 0) * 100).toFixed(1)} %`;
      return [(bytes / MIB).toFixed(1), `${((same[0]?.part ?? 0) * 100).toFixed(1)} %`, ...cells, metadata];
    });
    const heading = ['cache MiB', 'of trace', ...policies, 'metadata'];
    return `${workload}: ${rows[0]?.about}; hit ratio\n${layOut([heading, ...lines], 0).join('\n')}\n`;
  });
  return tables.join('\n');
}

function formatRatio(row: Replay | undefined): string {
  return row === undefined ? '-' : `${(row.hit_ratio * 100).toFixed(2)} %`;
}

export function formatCosts(costs: readonly Cost[]): string {
  if (costs.length === 0) {
    return '';
  }
  const lines = costs.map(({ cost, policy, ns }) => [cost, policy, ns.toFixed(1)]);
  return `${layOut([['4 KiB read', 'policy', 'ns'], ...lines], 2).join('\n')}\n`;
}
