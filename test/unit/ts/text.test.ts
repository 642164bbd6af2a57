// Small functions that turn data into text and text into data.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { VmView } from '../../../src/api/schemas.js';
import { parseDisk } from '../../../src/cli/commands/vm.js';
import { formatDuration, formatSize, formatTable, parseSize } from '../../../src/cli/format.js';
import { formatDiskRate, formatRate, parseDiskRate, parseRate } from '../../../src/cli/rates.js';
import { libvirtXml, qemuArgs } from '../../../src/cli/vm-args.js';
import { EventLog } from '../../../src/telemetry/events.js';
import { createLogger } from '../../../src/telemetry/log.js';
import { flatten, toPrometheus } from '../../../src/telemetry/metrics.js';

test('sizes are binary and exact', () => {
  const sizes: [string, number][] = [
    ['512', 512],
    ['4K', 4096],
    ['10G', 10 * 2 ** 30],
    ['1.5T', 1.5 * 2 ** 40],
    ['8 MiB', 8 * 2 ** 20],
    ['1gb', 2 ** 30],
  ];
  for (const [text, bytes] of sizes) {
    assert.equal(parseSize(text, '--size'), bytes);
  }
  for (const text of ['', '0', '-1', '1.3', 'G', '10X', '1e3', '9999999P']) {
    assert.throws(() => parseSize(text, '--size'), /is not a size/, text);
  }
  assert.deepEqual([0, 1023, 1024, 1536, 10 * 2 ** 30].map(formatSize), ['0', '1023', '1K', '1.5K', '10G']);
});

test('durations show their two largest units', () => {
  assert.deepEqual([0, 59, 60, 3725, 90061].map(formatDuration), ['0 s', '59 s', '1 min 0 s', '1 h 2 min', '1 d 1 h']);
});

test('the columns of a table are aligned', () => {
  assert.equal(
    formatTable(
      ['A', 'LONG'],
      [
        ['value', 'x'],
        ['y', ''],
      ],
    ),
    'A      LONG\nvalue  x\ny\n',
  );
});

test('a disk on the command line', () => {
  assert.deepEqual(parseDisk('d1'), { volume: 'd1' });
  assert.deepEqual(parseDisk('d1,ro,queues=4,name=root'), { volume: 'd1', read_only: true, queues: 4, name: 'root' });
  for (const text of ['', ',ro', 'd1,queues=x', 'd1,ro=1', 'd1,name=', 'd1,raedonly']) {
    assert.throws(() => parseDisk(text), /--disk/, text);
  }
});

const vm: VmView = {
  name: 'web',
  host: 'h1',
  nics: [],
  disks: [
    {
      ...{
        id: 1,
        generation: 1,
        vm: 'web',
        disk: 'd1',
        host: 'h1',
        volume: 'd1',
        worker: 0,
        size: 4096,
        read_only: false,
      },
      ...{ queues: 2, weight: 100, state: 'listening', reason: '', socket: "/a,b/<&'.sock", socket_reported: true },
    },
  ],
};
const machine = { memory: 2 ** 30, cpus: 1 };

test('QEMU is told to reconnect in the way that its version knows', () => {
  const chardev = (qemuVersion?: string) =>
    qemuArgs(vm, { ...machine, qemuVersion }).find((arg) => arg.startsWith('socket,'));
  assert.match(chardev() ?? '', /,reconnect=1$/);
  assert.match(chardev('7.2.22') ?? '', /,reconnect=1$/);
  assert.match(chardev('9.1') ?? '', /,reconnect=1$/);
  assert.match(chardev('9.2') ?? '', /,reconnect-ms=100$/);
  assert.match(chardev('10.0') ?? '', /,reconnect-ms=100$/);
  assert.throws(() => chardev('new'), /is not a version/);
});

test('a comma in a path does not end the option, and XML is escaped', () => {
  assert.ok(qemuArgs(vm, machine).some((arg) => arg.includes("path=/a,,b/<&'.sock,")));
  assert.match(libvirtXml(vm, machine), /path='\/a,b\/&lt;&amp;&apos;\.sock'/);
});

test('disks of libvirt are named as the kernel does', () => {
  const disk = vm.disks[0];
  assert.ok(disk);
  const xml = libvirtXml({ ...vm, disks: Array.from({ length: 28 }, () => disk) }, machine);
  const targets = [...xml.matchAll(/target dev='(\w+)'/g)].map(([, name]) => name);
  assert.deepEqual([targets[0], targets[25], targets[26], targets[27]], ['vda', 'vdz', 'vdaa', 'vdab']);
});

test('a log line is one line, and quotes only what needs it', () => {
  let text = '';
  const log = createLogger({ write: (line) => (text += line) }, new EventLog());
  log.warn('step.failed', { step: 'host.add', key: undefined, reason: 'no answer\nfor long', retry_ms: 3 });
  log.warn('host.down', { host: 'h1', reason: '\x1b[2J' });
  assert.equal(
    text,
    'warn step.failed step=host.add reason="no answer\\nfor long" retry_ms=3\nwarn host.down host=h1 reason="\\u001b[2J"\n',
  );
});

test('nested counters become Prometheus samples with labels', () => {
  const samples = flatten('or', {
    rxFrames: 1,
    server: { refused: { digest: 2 } },
    workers: { 0: { spins: 3 } },
    hitsTotal: 5,
  });
  assert.equal(
    toPrometheus([...samples, { name: 'or_rx_frames', labels: { host: 'a"b' }, value: 4 }]),
    `# TYPE or_rx_frames untyped
or_rx_frames 1
or_rx_frames{host="a\\"b"} 4
# TYPE or_server_refused untyped
or_server_refused{reason="digest"} 2
# TYPE or_workers_spins untyped
or_workers_spins{worker="0"} 3
# TYPE or_hits_total counter
or_hits_total 5
`,
  );
});

test('rates of NICs are read in bits and packets, and written so', () => {
  assert.deepEqual(parseRate('tx=100M,rx=1.5Gbit,tx-pps=20K,burst=256K,rx-burst=default'), {
    tx: { bits_per_s: 100e6, packets_per_s: 20_000, burst_bytes: 262_144 },
    rx: { bits_per_s: 1.5e9, burst_bytes: 0 },
  });
  const none = { bits_per_s: 0, burst_bytes: 0, packets_per_s: 0, burst_packets: 0 };
  assert.deepEqual(parseRate('none'), { tx: none, rx: none });
  assert.deepEqual(parseRate('tx=none'), { tx: { bits_per_s: 0 }, rx: {} });
  assert.throws(() => parseRate('tx-psp=1'), /unknown `tx-psp=1` \(tx-pps\?\)/);
  assert.throws(() => parseRate('tx=fast'), /--rate tx fast is not a number/);
  assert.throws(() => parseRate('tx'), /unknown `tx`/);
  assert.equal(formatRate({ ...none, bits_per_s: 1.5e9, packets_per_s: 20_000 }), '1.5Gbit/s, 20K packets/s');
  assert.equal(formatRate(none), 'no limit');
});

test('rates of disks are read in requests and bytes, and written so', () => {
  const rate = { iops: 2000, bytes_per_s: 104_857_600, burst_ops: 50, burst_bytes: 0 };
  assert.deepEqual(parseDiskRate({ iops: '2K', bps: '100M', iopsBurst: '50', bpsBurst: 'default' }), rate);
  assert.deepEqual(parseDiskRate({ iops: 'none' }), { iops: 0 });
  assert.equal(parseDiskRate({}), undefined);
  assert.throws(() => parseDiskRate({ iops: '0.5' }), /--iops 0\.5 is not a number/);
  assert.equal(formatDiskRate(rate), '2K IOPS, bursts of 50, 100M/s');
});

test('the arguments of a VM have its NICs', () => {
  const fixed = {
    id: 1,
    generation: 1,
    vm: 'web',
    host: 'h1',
    mac: '52:54:00:00:00:01',
    link: 'up' as const,
    qmp: null,
  };
  const rest = { state: 'listening' as const, reason: '', features: null, socket_reported: true };
  const nics = [
    { ...fixed, ...rest, nic: 'n1', mtu: 9000, queues: 2, socket: '/s/web/n1.nic' },
    { ...fixed, ...rest, nic: 'n2', mtu: 1500, queues: 1, socket: '/s/web/n2.nic' },
  ];
  const args = qemuArgs({ ...vm, disks: [], nics }, machine).join(' ');
  assert.ok(
    args.endsWith(
      '-chardev socket,id=outrigger.nic.n1.socket,path=/s/web/n1.nic,reconnect=1 ' +
        '-netdev vhost-user,id=outrigger.nic.n1.net,chardev=outrigger.nic.n1.socket,queues=2 ' +
        '-device virtio-net-pci,id=outrigger.nic.n1,netdev=outrigger.nic.n1.net,mac=52:54:00:00:00:01,host_mtu=9000,' +
        'mq=on,vectors=6,ctrl_guest_offloads=off,rx_queue_size=1024 ' +
        '-chardev socket,id=outrigger.nic.n2.socket,path=/s/web/n2.nic,reconnect=1 ' +
        '-netdev vhost-user,id=outrigger.nic.n2.net,chardev=outrigger.nic.n2.socket,queues=1 ' +
        '-device virtio-net-pci,id=outrigger.nic.n2,netdev=outrigger.nic.n2.net,mac=52:54:00:00:00:01,host_mtu=1500,' +
        'ctrl_guest_offloads=off,rx_queue_size=1024',
    ),
    args,
  );
  const xml = libvirtXml({ ...vm, nics }, machine);
  assert.match(xml, /<interface type='vhostuser'>\s+<mac address='52:54:00:00:00:01'\/>/);
  assert.match(xml, /<mtu size='9000'\/>/);
});
