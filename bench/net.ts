// Question: what does a NIC that the I/O hypervisor serves cost and carry, beside a bridge of the same kernel and
// a switch in user space? One row per system and test; CPU time is that of the whole machine, so nothing is free
// that runs in a kernel thread or an interrupt.
import { writeFileSync } from 'node:fs';
import { Cleanup } from '../test/lab/cleanup.js';
import { OUTSIDE } from '../test/lab/outside.js';
import { readCpuTimes } from './lib/cpu-times.js';
import { BenchError } from './lib/errors.js';
import { NET_SYSTEMS, type NetSystem } from './lib/net-systems.js';
import { NET_TESTS, startServers } from './lib/net-tests.js';
import { Progress } from './lib/progress.js';
import { layOut } from './lib/table.js';

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

async function measure(system: NetSystem, { mtu, seconds }: NetOptions, progress: Progress): Promise<NetRow[]> {
  const cleanup = new Cleanup();
  cleanup.onSignals();
  const rows: NetRow[] = [];
  try {
    const ends = await system.open(mtu, cleanup);
    await startServers(ends, cleanup);
    await ends.near(['ping', '-c', '2', '-W', '5', OUTSIDE.ipv4]);
    for (const test of NET_TESTS) {
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
  const progress = new Progress(wanted.length * NET_TESTS.length);
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
  const lines = NET_TESTS.flatMap(({ name }) =>
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
