// What is measured between the two ends of a NIC: streams, small packets, round trips.
import type { Cleanup } from '../../test/lab/cleanup.js';
import { OUTSIDE } from '../../test/lab/outside.js';
import { LabProcess } from '../../test/lab/process.js';
import { BenchError } from './errors.js';
import { loadgenProgram, parseResult } from './loadgen.js';
import type { Ends } from './net-systems.js';

/** An Ethernet frame of 64 bytes: 14 + 20 + 8 of headers, 18 of payload, 4 of checksum. */
const SMALL_PAYLOAD = 18;
const ECHO_PORT = 7777;
const ECHO_BYTES = 512;
const PINGS = 400;
const READY_MS = 10_000;

export interface Measured {
  value: number;
  unit: string;
  /** How many of `per` there were. */
  count: number;
  per: string;
}

export interface NetTest {
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

function stream(name: string, ...flags: string[]): NetTest {
  return {
    name,
    run: async (ends, seconds) => {
      const { sum_received: received } = await iperf(ends, seconds, ...flags);
      const bytes = received?.bytes ?? 0;
      return { value: (received?.bits_per_second ?? 0) / 8e6, unit: 'MB/s', count: bytes / 1e6, per: 'MB' };
    },
  };
}

function packets(name: string, ...flags: string[]): NetTest {
  return {
    name,
    run: async (ends, seconds) => {
      const { sum } = await iperf(ends, seconds, '-u', '-b', '0', '-l', `${SMALL_PAYLOAD}`, ...flags);
      const arrived = sum.packets - sum.lost_packets;
      return { value: arrived / sum.seconds / 1000, unit: 'kpackets/s', count: arrived, per: 'packet' };
    },
  };
}

export const NET_TESTS: readonly NetTest[] = [
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

export async function startServers(ends: Ends, cleanup: Cleanup): Promise<void> {
  const start = (name: string, argv: readonly [string, ...string[]]) =>
    new LabProcess({ name, argv: ends.far(argv), logFile: `${ends.dir}/${name}.log`, cleanup });
  await start('iperf3', ['iperf3', '--server', '--forceflush']).waitForLine(/^Server listening/, READY_MS);
  const echo = [loadgenProgram(), '--serve', 'tcp-echo', '--port', `${ECHO_PORT}`, '--spin-us', '0'] as const;
  await start('tcp-echo', echo).waitForLine(/^ready$/, READY_MS);
}
