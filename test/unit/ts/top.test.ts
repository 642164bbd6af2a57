import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DomainView } from '../../../src/api/domain-schemas.js';
import type { NicView } from '../../../src/api/nic-schemas.js';
import type { EngineView, HostStatus, IohvStatus } from '../../../src/api/schemas.js';
import { computeTop, renderTop, type Sample } from '../../../src/cli/top.js';

const engine = (pid: number | null): EngineView => ({
  ...{ state: 'running', pid, started_at: null, deaths: 0, last_error: '', log: '/log' },
  ...{ standby: 'none', last_blackout_ms: null, processes: [] },
});
const common = (pid: number | null) => ({
  ...{ version: '1', uptime_s: 60, engine: engine(pid), problems: [], vms: [] },
  port: { interface: 'lo', second_interface: null, mac: null, mtu: null, mode: 'packet' as const, xdp: null },
});

const none = { bits_per_s: 0, burst_bytes: 0, packets_per_s: 0, burst_packets: 0 };

function nicView(name: string, counters: NicView['counters']): NicView {
  return {
    ...{ name, kind: 'hub', interface: null, bridge: null, parent: null, mode: null, hub: 'lab' },
    ...{ mac: '52:54:00:00:00:01', mtu: 1500, addresses: [], spoof_check: true, link: 'up' },
    ...{ rate: { tx: none, rx: none }, state: 'open', reason: '', attachment: null, counters },
  };
}

const nicCounters = (n: number) => ({
  tx: { packets: n, bytes: 1500 * n, errors: 0, dropped: { spoofed: n / 100, noRoom: n / 50 } },
  rx: { packets: n / 2, bytes: 30 * n, errors: 0, dropped: { filtered: 0 } },
});

const never = { count: 0, mean_us: 0, max_us: 0 };

/** `committed` null: the engine does not have it. */
function domainView(committed: number | null): DomainView {
  const counters = {
    ...{
      open: (committed ?? 0) + 1,
      committed: committed ?? 0,
      applied: 0,
      held_bytes: 3 << 20,
      waiting: 0,
      packets: 0,
    },
    ...{ packets_fenced: 0, packets_lost: 0, writes_fenced: 0, cuts: 0, commits: 0, overflows: 0, connections: 0 },
    ...{ bad_records: 0, times: { cut: never, sync: never, release: never, apply: never } },
  };
  return {
    ...{ id: 1, name: 'ft1', state: 'running', reason: '', generation: 2, resume_epoch: 0, bytes: 64 << 20 },
    ...{ journal: '/j', journal_bytes: 1, socket: '/s', worker: 0, overflow: 'unprotect', commit_timeout_ms: 0 },
    ...{ unprotected: true, created_at: '', volumes: [], nics: [] },
    members: [
      { vm: 'web', role: 'fenced', generation: 1 },
      { vm: 'web1b', role: 'active', generation: 2 },
    ],
    counters: committed === null ? null : counters,
  };
}

function iohvSample(atMs: number, pid: number | null, requests: number): Sample {
  const host = {
    name: 'h1',
    up: true,
    mac: null,
    since: null,
    srtt_us: 42,
    in_flight: 3,
    mtu: 0,
    links: [],
    workers: [],
    agent_version: null,
    disks: 1,
    nics: 1,
  };
  const status: IohvStatus = {
    ...{ role: 'iohv', ...common(pid), hosts: [{ ...host, requests }], volumes: [] },
    nics: [nicView('nic1', pid === null ? null : nicCounters(requests))],
    domains: [domainView(pid === null ? null : requests / 10)],
  };
  const server = { requests, bytesRead: requests * 4096, bytesWritten: 0, retransmits: requests / 100, framesLost: 0 };
  return { atMs, status, stats: pid === null ? {} : { server }, cache: null };
}

test('two samples make rates per second', () => {
  const view = computeTop(iohvSample(1000, 7, 1000), iohvSample(3000, 7, 5000));
  assert.deepEqual(view.total, { iops: 2000, read_mb_s: 8.192, write_mb_s: 0, retransmits: 20, frames_lost: 0 });
  assert.deepEqual(view.hosts, [{ name: 'h1', up: true, rtt_us: 42, iops: 2000, in_flight: 3, disks: 1, nics: 1 }]);
  assert.deepEqual(view.nics, [
    {
      ...{ nic: 'nic1', state: 'open', tx_packets_s: 2000, tx_mbit_s: 24, rx_packets_s: 1000, rx_mbit_s: 0.48 },
      dropped_s: 60,
    },
  ]);
  assert.deepEqual(view.domains, [
    {
      ...{ domain: 'ft1', state: 'running', generation: 2, open: 501, committed: 500, epochs_s: 200 },
      ...{ held_bytes: 3 << 20, bytes: 64 << 20, unprotected: true, members: domainView(0).members },
    },
  ]);
  assert.equal(
    renderTop(view),
    `I/O hypervisor  up 1 min 0 s, engine running
total           2000 IOPS, read 8.2 MB/s, write 0.0 MB/s
wire            20.0 retransmits/s, 0.0 frames lost/s

HOST  STATE  RTT    IOPS  IN FLIGHT  DISKS  NICS
h1    up     42 us  2000  3          1      1

NIC   STATE  TX PACKETS/s  TX Mbit/s  RX PACKETS/s  RX Mbit/s  DROPPED/s
nic1  open   2000          24.0       1000          0.5        60.0

DOMAIN  STATE                 GENERATION  OPEN  COMMITTED  EPOCHS/s  HELD       MEMBERS
ft1     running, UNPROTECTED  2           501   500        200.0     3M of 64M  web1b, web (fenced)
`,
  );
});

test('there are no rates across the death of an engine, nor without one', () => {
  for (const [before, now] of [
    [7, 8],
    [7, null],
    [null, null],
  ] as const) {
    const view = computeTop(iohvSample(0, before, 1000), iohvSample(1000, now, 10));
    assert.deepEqual([view.total.iops, view.total.read_mb_s, view.hosts[0]?.iops], [null, null, null]);
    assert.deepEqual([view.nics[0]?.tx_mbit_s, view.nics[0]?.dropped_s], [null, null]);
    assert.equal(view.domains[0]?.epochs_s, null);
    assert.equal(view.domains[0]?.open, now === null ? null : 2);
    assert.match(renderTop(view), /^total +- IOPS, read - MB\/s, write - MB\/s$/m);
  }
});

test('a host agent shows its disks and NICs', () => {
  const sample = (atMs: number, n: number): Sample => {
    const disk = {
      ...{
        id: 1,
        generation: 1,
        vm: 'web',
        disk: 'root',
        host: 'h1',
        volume: 'd1',
        worker: 0,
        size: 1,
        read_only: false,
      },
      ...{ queues: 1, weight: null, state: 'running' as const, reason: '', socket: '/s', socket_reported: true },
    };
    const nic = {
      ...{ id: 2, generation: 2, vm: 'web', nic: 'nic1', host: 'h1', mac: '52:54:00:00:00:01', mtu: 1500, queues: 1 },
      ...{ link: 'up' as const, qmp: null, state: 'running' as const, reason: '', features: '0x100000000' },
      ...{ socket: '/n', socket_reported: true },
    };
    const vms = [{ name: 'web', host: 'h1', disks: [disk], nics: [nic] }];
    const status: HostStatus = {
      role: 'host',
      name: 'h1',
      ...common(7),
      vms,
      session: { up: true, reason: '', links: [], workers: [] },
    };
    const counters = {
      reads: n,
      writes: n,
      flushes: 1,
      discards: 0,
      writeZeroes: 0,
      bytesRead: n,
      bytesWritten: 1e6 * n,
    };
    const drops = { txDroppedDown: n, txBadHeader: n, rxNoBuffers: 0, rxTooLong: 0 };
    const packets = { txPackets: n, txBytes: 1e6 * n, rxPackets: 2 * n, rxBytes: 0, ...drops };
    const client = { requests: 2 * n, replies: 2 * n - 4, srttUs: 30, retransmits: 0, framesLost: 0 };
    return {
      atMs,
      status,
      stats: { client, devices: { 'web/root': counters }, nics: { 'web/nic1': packets } },
      cache: null,
    };
  };
  const view = computeTop(sample(0, 10), sample(500, 20));
  const rates = { iops: 40, read_mb_s: 2e-5, write_mb_s: 20 };
  assert.deepEqual(view.disks, [{ disk: 'web/root', volume: 'd1', state: 'running', ...rates }]);
  assert.deepEqual(view.hosts, [{ name: 'h1', up: true, rtt_us: 30, iops: 40, in_flight: 4, disks: 1, nics: 1 }]);
  const traffic = { tx_packets_s: 20, tx_mbit_s: 160, rx_packets_s: 40, rx_mbit_s: 0, dropped_s: 40 };
  assert.deepEqual(view.nics, [{ nic: 'web/nic1', state: 'running', ...traffic }]);
});
