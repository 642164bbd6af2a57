// Question: what does it cost a guest that its output is held until the epoch is committed, by the length of epochs, and
// does it cost those anything whose output is not?
//
// Epochs are cut and committed on a clock, by a program that makes no checkpoints: what a mechanism adds that pauses
// the VM and copies its memory is not in these figures.
import { appendFileSync, writeFileSync } from 'node:fs';
import { EpochClient } from '../src/protect/epoch-client.js';
import { Cleanup } from '../test/lab/cleanup.js';
import { Outrigger } from '../test/lab/outrigger.js';
import { OUTSIDE } from '../test/lab/outside.js';
import { waitFor } from '../test/lab/wait.js';
import { BenchError } from './lib/errors.js';
import { BenchDomain, type Held } from './lib/intercept-domain.js';
import { median } from './lib/median.js';
import { openLab, plugIn, VM } from './lib/net-systems.js';
import { NET_TESTS, startServers } from './lib/net-tests.js';
import { CPUS } from './lib/network.js';
import { Progress } from './lib/progress.js';
import { layOut } from './lib/table.js';
import { addDisk, driveDisks, fillDisk } from './lib/vm-disks.js';

const MTU = 9000;
const GUEST_MTU = 1500;
const VOLUME = ['--size', '256M'];
const TIMEOUT_MS = 600_000;
const EMPTY_CHECKPOINTS = 4000;
const WARM_UP = 200;
const NET = ['tcp-rr', 'tcp-stream-out', 'tcp-stream-in'];

const BLOCK = [
  { name: '4 KiB read, depth 1', args: ['--op', 'randread', '--bs', '4k', '--qd', '1'] },
  { name: '4 KiB read, depth 32', args: ['--op', 'randread', '--bs', '4k', '--qd', '32'] },
  { name: '4 KiB write, depth 1', args: ['--op', 'randwrite', '--bs', '4k', '--qd', '1'] },
  { name: '4 KiB write, depth 32', args: ['--op', 'randwrite', '--bs', '4k', '--qd', '32'] },
  { name: '128 KiB write, depth 8', args: ['--op', 'write', '--bs', '128k', '--qd', '8'] },
] as const;

export const PARTS = ['block', 'net', 'empty'] as const;
export type Part = (typeof PARTS)[number];

export interface InterceptOptions {
  seconds: number;
  repeat: number;
  /** Lengths, ms. */
  epochs: readonly number[];
  only: readonly Part[];
  json: string | undefined;
}

/** none: there is no domain at all; beside: another VM is in one; held: in epochs of `epoch_ms`. */
type Protection = 'none' | 'beside' | 'held';

export interface InterceptRow {
  part: 'block' | 'net';
  test: string;
  protection: Protection;
  /** 0: not held. */
  epoch_ms: number;
  value: number;
  unit: string;
  /** Of block; else 0. */
  p50_us: number;
  p99_us: number;
  max_us: number;
  held: Held | undefined;
}

export interface EmptyResult {
  /** Round trips over the socket, one after the other, microseconds. */
  status_p50_us: number;
  status_p99_us: number;
  checkpoint_p50_us: number;
  checkpoint_p99_us: number;
  /** In the I/O hypervisor itself, means. */
  cut_us: number;
  sync_count: number;
}

/** Of a new domain into which blocks of 4 KiB were written. */
export interface MemoryResult {
  /** Of the machine's memory. */
  region_bytes: number;
  held_bytes: number;
}

interface Report {
  command: string;
  rows: InterceptRow[];
  empty: EmptyResult | undefined;
  memory: MemoryResult | undefined;
}

interface Machines {
  lab: Outrigger;
  /** The vhost-user sockets of the disks, by VM. */
  sockets: Record<'plain' | 'held', string>;
  domain: BenchDomain | undefined;
}

async function openMachines(withDomain: boolean, cleanup: Cleanup): Promise<Machines> {
  const lab = await Outrigger.open({ mtu: MTU, cleanup, cpu: CPUS.iohv, cacheSize: '0' });
  appendFileSync(lab.configFile('host'), `worker:\n  cpu: ${CPUS.host}\n`);
  await lab.startBoth();
  const sockets = { plain: '', held: '' };
  for (const vm of ['plain', 'held'] as const) {
    sockets[vm] = await addDisk(lab, 'host', vm, VOLUME);
    await fillDisk(lab, sockets[vm]);
  }
  return { lab, sockets, domain: withDomain ? await BenchDomain.create(lab, 'held') : undefined };
}

async function measureBlock(options: InterceptOptions, report: Report, progress: Progress): Promise<void> {
  const cleanup = new Cleanup();
  cleanup.onSignals();
  try {
    const [without, having] = [await openMachines(false, cleanup), await openMachines(true, cleanup)];
    const { domain } = having;
    if (domain === undefined) {
      throw new BenchError('there is no domain');
    }
    const load = ({ lab, sockets }: Machines, vm: 'plain' | 'held', args: readonly string[]) =>
      driveDisks(lab, [sockets[vm]], options.seconds, args);
    for (const { name, args } of BLOCK) {
      const add = (protection: Protection, epoch_ms: number, result: Awaited<ReturnType<typeof load>>, held?: Held) => {
        const { iops, p50_us, p99_us, max_us } = result;
        report.rows.push({
          ...{ part: 'block', test: name, protection, epoch_ms, value: iops, unit: 'IOPS', held },
          ...{ p50_us, p99_us, max_us },
        });
      };
      for (let round = 0; round < options.repeat; round++) {
        progress.step(`${name}: no domain`);
        add('none', 0, await load(without, 'plain', args));
        progress.step(`${name}: beside a domain`);
        add('beside', 0, await load(having, 'plain', args));
        for (const epoch of options.epochs) {
          progress.step(`${name}: held, ${epoch} ms`);
          const { result, held } = await domain.hold(epoch, () => load(having, 'held', args));
          add('held', epoch, result, held);
        }
      }
    }
  } finally {
    cleanup.run();
  }
}

async function measureNet(options: InterceptOptions, report: Report, progress: Progress): Promise<void> {
  const cleanup = new Cleanup();
  cleanup.onSignals();
  try {
    const opened = await openLab(GUEST_MTU, cleanup);
    const ends = await plugIn(opened, GUEST_MTU, cleanup);
    await startServers(ends, cleanup);
    await ends.near(['ping', '-c', '2', '-W', '5', OUTSIDE.ipv4]);
    const tests = NET_TESTS.filter(({ name }) => NET.includes(name));
    const measure = async (test: (typeof tests)[number]) => {
      const measured = await test.run(ends, options.seconds);
      if (measured === undefined) {
        throw new BenchError(`${test.name} measured nothing`);
      }
      return { value: measured.value, unit: measured.unit, p50_us: 0, p99_us: 0, max_us: 0 };
    };
    for (const test of tests) {
      for (let round = 0; round < options.repeat; round++) {
        progress.step(`${test.name}: no domain`);
        const result = await measure(test);
        report.rows.push({ part: 'net', test: test.name, protection: 'none', epoch_ms: 0, ...result, held: undefined });
      }
    }
    const domain = await BenchDomain.create(opened.lab, VM);
    for (const test of tests) {
      for (let round = 0; round < options.repeat; round++) {
        for (const epoch of options.epochs) {
          progress.step(`${test.name}: held, ${epoch} ms`);
          const { result, held } = await domain.hold(epoch, () => measure(test));
          report.rows.push({ part: 'net', test: test.name, protection: 'held', epoch_ms: epoch, ...result, held });
        }
      }
    }
  } finally {
    cleanup.run();
  }
}

async function measureMemory(lab: Outrigger, socket: string, domain: BenchDomain): Promise<MemoryResult> {
  await driveDisks(lab, [socket], 0.2, ['--op', 'randwrite', '--bs', '4k', '--qd', '8']);
  const { held_bytes } = (await domain.view()).counters;
  return { region_bytes: domain.regionBytes(), held_bytes };
}

/** Checkpoints of a VM that does nothing. */
async function measureEmpty(report: Report, progress: Progress): Promise<void> {
  const cleanup = new Cleanup();
  cleanup.onSignals();
  try {
    progress.step('empty checkpoints');
    const { lab, sockets, domain } = await openMachines(true, cleanup);
    if (domain === undefined) {
      throw new BenchError('there is no domain');
    }
    report.memory = await measureMemory(lab, sockets.held, domain);
    const client = await EpochClient.connect((await domain.view()).socket);
    await client.commit((await client.cut()).epoch);
    await waitFor({ what: 'what is held to be applied', timeoutMs: TIMEOUT_MS }, async () => {
      return (await domain.view()).counters.held_bytes === 0;
    });
    const before = await domain.view();
    const time = async (body: () => Promise<unknown>) => {
      const times: number[] = [];
      for (let n = 0; n < WARM_UP + EMPTY_CHECKPOINTS; n++) {
        const start = process.hrtime.bigint();
        await body();
        times.push(Number(process.hrtime.bigint() - start) / 1000);
      }
      return times.slice(WARM_UP).sort((a, b) => a - b);
    };
    const status = await time(() => client.status());
    const checkpoint = await time(async () => client.commit((await client.cut()).epoch));
    const after = await domain.view();
    await client.close();
    const [old, now] = [before.counters.times, after.counters.times];
    const cuts = now.cut.count - old.cut.count;
    report.empty = {
      status_p50_us: percentile(status, 50),
      status_p99_us: percentile(status, 99),
      checkpoint_p50_us: percentile(checkpoint, 50),
      checkpoint_p99_us: percentile(checkpoint, 99),
      cut_us: (now.cut.count * now.cut.mean_us - old.cut.count * old.cut.mean_us) / cuts,
      sync_count: now.sync.count - old.sync.count,
    };
  } finally {
    cleanup.run();
  }
}

const percentile = (sorted: readonly number[], p: number) =>
  sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * p) / 100))] ?? 0;

export async function benchIntercept(options: InterceptOptions & { command: string }): Promise<void> {
  const { only, repeat, epochs, json, command } = options;
  const report: Report = { command, rows: [], empty: undefined, memory: undefined };
  const steps = {
    block: BLOCK.length * repeat * (2 + epochs.length),
    net: NET.length * repeat * (1 + epochs.length),
    empty: 1,
  };
  const progress = new Progress(only.reduce((sum, part) => sum + steps[part], 0));
  if (only.includes('block')) {
    await measureBlock(options, report, progress);
  }
  if (only.includes('net')) {
    await measureNet(options, report, progress);
  }
  if (only.includes('empty')) {
    await measureEmpty(report, progress);
  }
  progress.clear();
  process.stdout.write(`${format(report, epochs)}\n`);
  if (json !== undefined) {
    writeFileSync(json, `${JSON.stringify(report, null, 2)}\n`);
  }
}

function format({ rows, empty, memory }: Report, epochs: readonly number[]): string {
  const tests = [...new Set(rows.map(({ test }) => test))];
  const lines = [
    [
      ...['test', 'output', 'value', '', 'of none', 'p50 us', 'p99 us', 'max us', 'held MB', 'checkpoint us'],
      ...['cut us', 'sync us', 'release us', 'apply us'],
    ],
    ...tests.flatMap((test) => {
      const of = rows.filter((row) => row.test === test);
      const cases = [['none', 0], ['beside', 0], ...epochs.map((ms) => ['held', ms] as const)] as const;
      return cases.flatMap(([protection, ms]) => formatCase(of, test, protection, ms));
    }),
  ];
  const text = rows.length === 0 ? [] : layOut(lines, 2);
  if (memory !== undefined) {
    const { region_bytes, held_bytes } = memory;
    const each = (region_bytes / held_bytes).toFixed(3);
    text.push('', `${held_bytes} bytes held take ${region_bytes} of the region's memory: ${each} for each`);
  }
  if (empty !== undefined) {
    text.push('', 'an empty checkpoint (cut and commit, two round trips), and one round trip that does nothing:');
    text.push(...Object.entries(empty).map(([name, value]) => `${name.padEnd(20)} ${value.toFixed(1)}`));
  }
  return text.join('\n');
}

function formatCase(of: readonly InterceptRow[], test: string, protection: Protection, ms: number): string[][] {
  const own = of.filter((row) => row.protection === protection && row.epoch_ms === ms);
  const [first] = own;
  if (first === undefined) {
    return [];
  }
  const value = (group: readonly InterceptRow[]) => median(group.map((row) => row.value));
  const none = value(of.filter((row) => row.protection === 'none'));
  const held = (pick: (held: Held) => number, digits = 0) =>
    first.held === undefined ? '-' : median(own.map((row) => (row.held ? pick(row.held) : 0))).toFixed(digits);
  const latency = (key: 'p50_us' | 'p99_us' | 'max_us') =>
    first.part === 'block' ? median(own.map((row) => row[key])).toFixed(1) : '-';
  return [
    [
      ...[test, protection === 'held' ? `held, ${ms} ms` : protection === 'none' ? 'no domain' : 'beside a domain'],
      ...[value(own).toFixed(1), first.unit, `${(value(own) / none).toFixed(2)}x`],
      ...[latency('p50_us'), latency('p99_us'), latency('max_us')],
      ...[held((h) => h.held_bytes_max / 1e6, 1), held((h) => h.checkpoint_us)],
      ...[held((h) => h.cut_us, 1), held((h) => h.sync_us), held((h) => h.release_us, 1), held((h) => h.apply_us)],
    ],
  ];
}
