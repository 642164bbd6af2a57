// Question: what does a NIC that the I/O hypervisor serves cost and carry, beside a bridge of the same kernel and
// a switch in user space? One row per system and test; CPU time is that of the whole machine, so nothing is free
// that runs in a kernel thread or an interrupt.
import { writeFileSync } from 'node:fs';
import { Cleanup } from '../test/lab/cleanup.js';
import { OUTSIDE } from '../test/lab/outside.js';
import { LabProcess } from '../test/lab/process.js';
import { readCpuTimes } from './lib/cpu-times.js';
import { BenchError } from './lib/errors.js';
import { loadgenProgram, parseResult } from './lib/loadgen.js';
import { type Ends, NET_SYSTEMS, type NetSystem } from './lib/net-systems.js';
import { Progress } from './lib/progress.js';
import { layOut } from './lib/table.js';

/** An Ethernet frame of 64 bytes: 14 + 20 + 8 of headers, 18 of payload, 4 of checksum. */
const SMALL_PAYLOAD = 18;
const ECHO_PORT = 7777;
const ECHO_BYTES = 512;
const PINGS = 400;
const READY_MS = 10_000;

export interface NetOptions {
  seconds: number;
  mtu: number;
  systems: readonly string[];
  json: string | undefined;
}

export interface NetRow {
  system: string;
  test: string;
  mtu: number;
  value: number;
  unit: string;
  /** Of all CPUs, microseconds, for each `per`. */
  cpu_us_per_unit: number;
  per: string;
}

interface Measured {
  value: number;
  unit: string;
  /** How many of `per` there were. */
  count: number;
  per: string;
}

interface Test {
  name: string;
  run(ends: Ends, seconds: number): Promise<Measured | undefined>;
}

interface IperfReport {
  end: {
    sum: { packets: number; lost_packets: number; seconds: number };
    sum_received?: { bytes: number; bits_per_second: number };
  };
}

async function iperf(ends: Ends, seconds: number, ...flags: string[]): Promise<IperfReport['end']> {
  const argv = ['iperf3', '-c', OUTSIDE.ipv4, '-t', `${seconds}`, '-J', ...flags] as const;
  return (JSON.parse(await ends.near([argv[0], ...argv.slice(1)])) as IperfReport).end;
}

function stream(name: string, ...flags: string[]): Test {
  return {
    name,
    run: async (ends, seconds) => {
      const { sum_received: received } = await iperf(ends, seconds, ...flags);
      const bytes = received?.bytes ?? 0;
      return { value: (received?.bits_per_second ?? 0) / 8e6, unit: 'MB/s', count: bytes / 1e6, per: 'MB' };
    },
  };
}

function packets(name: string, ...flags: string[]): Test {
  return {
    name,
    run: async (ends, seconds) => {
      const { sum } = await iperf(ends, seconds, '-u', '-b', '0', '-l', `${SMALL_PAYLOAD}`, ...flags);
      const arrived = sum.packets - sum.lost_packets;
      return { value: arrived / sum.seconds / 1000, unit: 'kpackets/s', count: arrived, per: 'packet' };
    },
  };
}

const TESTS: readonly Test[] = [
  stream('tcp-stream-out'),
  stream('tcp-stream-in', '-R'),
  {
    name: 'tcp-rr',
    run: async (ends, seconds) => {
      if (!ends.hasLoadgen) {
        return undefined;
      }
      const output = await ends.near([
        ...([loadgenProgram(), '--engine', 'tcp-echo', '--address', OUTSIDE.ipv4, '--port', `${ECHO_PORT}`] as const),
        ...[
          '--op',
          'randread',
          '--bs',
          `${ECHO_BYTES}`,
          '--qd',
          '1',
          '--seconds',
          `${seconds}`,
          '--spin-us',
          '0',
          '--json',
        ],
      ]);
      const { iops } = parseResult(output);
      return { value: iops, unit: 'round trips/s', count: iops * seconds, per: 'round trip' };
    },
  },
  {
    name: 'ping',
    run: async (ends) => {
      const output = await ends.near(['ping', '-q', '-c', `${PINGS}`, '-i', '0.005', OUTSIDE.ipv4]);
      const average = /min\/avg\/max\S* = [\d.]+\/([\d.]+)\//.exec(output)?.[1];
      if (average === undefined) {
        throw new BenchError(`ping printed no round trip: ${output}`);
      }
      return { value: Number(average) * 1000, unit: 'us', count: PINGS, per: 'round trip' };
    },
  },
  packets('packets-64-out'),
  packets('packets-64-in', '-R'),
];

async function startServers(ends: Ends, cleanup: Cleanup): Promise<void> {
  const start = (name: string, argv: readonly [string, ...string[]]) =>
    new LabProcess({ name, argv: ends.far(argv), logFile: `${ends.dir}/${name}.log`, cleanup });
  await start('iperf3', ['iperf3', '--server', '--forceflush']).waitForLine(/^Server listening/, READY_MS);
  const echo = [loadgenProgram(), '--serve', 'tcp-echo', '--port', `${ECHO_PORT}`, '--spin-us', '0'] as const;
  await start('tcp-echo', echo).waitForLine(/^ready$/, READY_MS);
}

async function measure(system: NetSystem, { mtu, seconds }: NetOptions, progress: Progress): Promise<NetRow[]> {
  const cleanup = new Cleanup();
  cleanup.onSignals();
  const rows: NetRow[] = [];
  try {
    const ends = await system.open(mtu, cleanup);
    await startServers(ends, cleanup);
    await ends.near(['ping', '-c', '2', '-W', '5', OUTSIDE.ipv4]);
    for (const test of TESTS) {
      progress.step(`${system.name}: ${test.name}`);
      const before = readCpuTimes().busyUs;
      const measured = await test.run(ends, seconds);
      const used = readCpuTimes().busyUs - before;
      if (measured !== undefined) {
        const { value, unit, count, per } = measured;
        rows.push({ system: system.name, test: test.name, mtu, value, unit, cpu_us_per_unit: used / count, per });
      }
    }
    return rows;
  } finally {
    cleanup.run();
  }
}

export async function benchNet(options: NetOptions): Promise<void> {
  const { systems, json } = options;
  const wanted = NET_SYSTEMS.filter(({ name, byDefault }) => (systems.length > 0 ? systems.includes(name) : byDefault));
  const unknown = systems.find((name) => !NET_SYSTEMS.some((system) => system.name === name));
  if (unknown !== undefined) {
    throw new BenchError(`--systems ${unknown}: there are ${NET_SYSTEMS.map(({ name }) => name).join(', ')}`);
  }
  const progress = new Progress(wanted.length * TESTS.length);
  const rows: NetRow[] = [];
  for (const system of wanted) {
    rows.push(...(await measure(system, options, progress)));
  }
  progress.clear();
  process.stdout.write(formatRows(rows));
  if (json !== undefined) {
    writeFileSync(json, `${JSON.stringify(rows, null, 2)}\n`);
  }
}

function formatRows(rows: readonly NetRow[]): string {
  const heading = ['test', 'system', 'value', '', 'of bridge', 'CPU us', 'for each', 'of bridge'];
  const lines = TESTS.flatMap(({ name }) =>
    rows
      .filter(({ test }) => test === name)
      .map((row) => {
        const peer = rows.find(({ test, system }) => test === name && system === 'bridge');
        const ratio = (a: number, b: number | undefined) => (b === undefined ? '-' : `${(a / b).toFixed(2)}x`);
        return [
          ...[name, row.system, row.value.toFixed(1), row.unit, ratio(row.value, peer?.value)],
          ...[row.cpu_us_per_unit.toFixed(2), row.per, ratio(row.cpu_us_per_unit, peer?.cpu_us_per_unit)],
        ];
      }),
  );
  return `${layOut([heading, ...lines], 2).join('\n')}\n`;
}
