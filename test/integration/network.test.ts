// Two guests on two hosts, and a network beyond the I/O hypervisor, all reaching each other through NICs that
// the I/O hypervisor serves:
//
//   vm1 ── QEMU ── host agent ──┐                        ┌── tap, macvtap ── outside: DHCP, HTTP, iperf3
//                               ├── switch ── I/O hypervisor
//   vm2 ── QEMU ── host agent ──┘                        └── hub
//
// with offloads on, and off.
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { Cleanup } from '../lab/cleanup.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAMES, Outrigger } from '../lab/outrigger.js';
import { BRIDGE, OUTSIDE, Outside, UPLINK } from '../lab/outside.js';

const MTU = 9000;
const IPERF_SECONDS = 2;
const FILE_BYTES = 8 << 20;
const HOSTS = ['host', 'host2'] as const;
/** The payload of the largest echo request that is not cut: 20 bytes of IPv4 header, 8 of ICMP. */
const LARGEST_ECHO = MTU - 28;

interface Backend {
  name: string;
  /** Of `outrigger nic create`. */
  flags: readonly string[];
  outside: 'bridged' | 'direct' | 'none';
}

const BACKENDS: readonly Backend[] = [
  { name: 'tap and bridge', flags: ['--bridge', BRIDGE], outside: 'bridged' },
  { name: 'macvtap', flags: ['--macvtap', `${UPLINK},bridge`], outside: 'direct' },
  { name: 'hub', flags: ['--hub', 'lan'], outside: 'none' },
];

interface Stream {
  end: { sum_received: { bits_per_second: number; bytes: number } };
}

for (const backend of BACKENDS) {
  describe(`guests with NICs on ${backend.name}`, () => {
    const cleanup = new Cleanup();
    const content = randomBytes(FILE_BYTES);
    const digest = createHash('sha256').update(content).digest('hex');
    let lab: Outrigger;
    let guests: TestGuest[];
    let addresses: string[];

    before(async () => {
      cleanup.onSignals();
      lab = await Outrigger.open({ mtu: MTU, cleanup, secondHost: true });
      if (backend.outside !== 'none') {
        const bridged = backend.outside === 'bridged';
        const outside = Outside.open({ segment: lab.segment, dir: lab.dir, cleanup, bridged });
        await Promise.all([outside.startDhcp(MTU), outside.startHttp(content), outside.startIperf()]);
      }
      await lab.startBoth();
      guests = [];
      for (const [i, host] of HOSTS.entries()) {
        const [vm, nic] = [`vm${i + 1}`, `nic${i + 1}`];
        await lab.cli('iohv', 'nic', 'create', nic, ...backend.flags, '--mtu', `${MTU}`);
        await lab.cli('iohv', 'attach', vm, '--host', HOST_NAMES[host], '--nic', nic);
        guests.push(await lab.bootGuest(vm));
      }
    });

    after(() => cleanup.run());

    const each = (work: (guest: TestGuest, index: number) => Promise<unknown>) =>
      Promise.all(guests.map((guest, index) => work(guest, index)));

    async function ping(guest: TestGuest, address: string, bytes = 56): Promise<void> {
      const { status, output } = await guest.run(`ping -c 3 -W 5 -s ${bytes} ${address}`);
      assert.equal(status, 0, output);
    }

    /** MB/s of a TCP stream to `address`; reverse: from there. */
    async function stream(guest: TestGuest, address: string, reverse: boolean): Promise<number> {
      const json = await guest.must(`iperf3 -c ${address} -t ${IPERF_SECONDS} -J ${reverse ? '-R' : ''}`);
      const { sum_received: received } = (JSON.parse(json) as Stream).end;
      assert.ok(received.bytes > 0);
      return received.bits_per_second / 8e6;
    }

    /** The guest with an iperf3 server, and where it can be reached. */
    const peers = (): [guest: number, address: string][] => [
      ...(backend.outside === 'none' ? [] : [[0, OUTSIDE.ipv4] as [number, string]]),
      [0, addresses[1] ?? ''],
    ];

    test('get an address and the MTU', async () => {
      await each(async (guest, i) => {
        await guest.must('ip link set eth0 up');
        if (backend.outside === 'none') {
          await guest.must(`ip address add 10.77.0.${i + 2}/24 dev eth0; ip link set eth0 mtu ${MTU}`);
        } else {
          await guest.must('udhcpc -i eth0 -n -q -t 20 -T 1 -s /usr/share/udhcpc/default.script');
        }
        await guest.must(`echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip address add fd77::${i + 2}/64 dev eth0`);
        assert.match(await guest.must('ip link show eth0'), new RegExp(`mtu ${MTU} `));
      });
      addresses = await Promise.all(
        guests.map(
          async (guest) => /inet (10\.77\.0\.\d+)/.exec(await guest.must('ip -4 address show eth0'))?.[1] ?? '',
        ),
      );
      assert.equal(new Set(addresses).size, 2, addresses.join());
    });

    test('reach each other and the outside, with small packets and with the largest', async () => {
      const [one, two] = guests as [TestGuest, TestGuest];
      await ping(one, addresses[1] ?? '');
      await ping(two, addresses[0] ?? '', LARGEST_ECHO);
      await ping(one, 'fd77::3');
      assert.match(await one.must('ip neigh show dev eth0'), /^fd77::3 .*(REACHABLE|DELAY|STALE)/m);
      await one.must(`arping -c 2 -w 10 -I eth0 ${addresses[1]}`);
      if (backend.outside !== 'none') {
        await each((guest) => ping(guest, OUTSIDE.ipv4, LARGEST_ECHO));
        await each((guest) => ping(guest, OUTSIDE.ipv6));
      }
      const fragments = await one.must("awk '/^Ip:/ { n = $NF } END { print n }' /proc/net/snmp");
      assert.equal(fragments, '0', 'nothing was cut on the way');
    });

    for (const offloads of ['on', 'off'] as const) {
      test(`send and receive streams with offloads ${offloads}`, async (t) => {
        await each((guest) => guest.must(`ethtool -K eth0 tso ${offloads} gso ${offloads} tx ${offloads}`));
        await guests[1]?.must('pidof iperf3 >/dev/null || (iperf3 -s -D && sleep 1)');
        for (const [from, address] of peers()) {
          const guest = guests[from] as TestGuest;
          const there = await stream(guest, address, false);
          const back = await stream(guest, address, true);
          const where = address === OUTSIDE.ipv4 ? 'the outside' : 'the other guest';
          t.diagnostic(
            `measured: offloads ${offloads}: to ${where} ${there.toFixed(1)} MB/s, back ${back.toFixed(1)} MB/s`,
          );
        }
      });

      if (backend.outside !== 'none') {
        test(`download a file with offloads ${offloads}`, async () => {
          await each(async (guest) => {
            const sum = await guest.must(`wget -q -O - http://${OUTSIDE.ipv4}/file | sha256sum`);
            assert.equal(sum.split(' ')[0], digest);
          });
        });
      }
    }
  });
}
