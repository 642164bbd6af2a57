// One NIC under its guest: what an operator changes while it is in use, and what becomes of a transfer when the
// engines that carry it are killed. Beyond the I/O hypervisor is a bridge, and the outside (test/lab/outside.ts).
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import type { NicView } from '../../src/api/nic-schemas.js';
import { getJson } from '../lab/api.js';
import { Cleanup } from '../lab/cleanup.js';
import { run } from '../lab/command.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { BRIDGE, OUTSIDE, Outside } from '../lab/outside.js';
import { waitFor } from '../lab/wait.js';

const VM = 'vm1';
const NIC = 'nic1';
const GUEST_ADDRESS = '10.77.0.2';
const MTU = 9000;
const KILLS = 3;
const FILE_BYTES = 64 << 20;
const UPLOAD_PORT = 9000;
const PING_INTERVAL_S = 0.01;
/** How much more than its rate a NIC may seem to carry: its burst, and the clock of who measures. */
const RATE_SLACK = 1.2;
const SIDES = ['host', 'iohv'] as const;

interface Counts {
  packets: number;
  dropped: { filtered: number; spoofed: number };
}

describe('a NIC under its guest', () => {
  const cleanup = new Cleanup();
  const content = randomBytes(FILE_BYTES);
  const digest = createHash('sha256').update(content).digest('hex');
  let lab: Outrigger;
  let outside: Outside;
  let guest: TestGuest;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: MTU, cleanup });
    outside = Outside.open({ segment: lab.segment, dir: lab.dir, cleanup, bridged: true });
    await Promise.all([outside.startHttp(content), outside.startIperf()]);
    await lab.startBoth();
    const qmp = `${lab.dir}/filters.qmp`;
    await lab.cli('iohv', 'nic', 'create', NIC, '--bridge', BRIDGE, '--mtu', `${MTU}`);
    await lab.cli('iohv', 'volume', 'create', 'data', '--kind', 'ram', '--size', '16M');
    const nic = `${NIC},queues=2,qmp=${qmp}`;
    await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', 'data', '--nic', nic);
    guest = await lab.bootGuest(VM, {
      flags: ['--cpus', '2'],
      args: (ofVm) => [...ofVm, '-qmp', `unix:${qmp},server=on,wait=off`],
    });
    await guest.must(`ip link set eth0 up; ip address add ${GUEST_ADDRESS}/24 dev eth0; ip link set eth0 mtu ${MTU}`);
    await waitForPing();
  });

  after(() => cleanup.run());

  async function counts(): Promise<Record<'tx' | 'rx', Counts>> {
    const nic = await getJson<NicView>(lab.socket('iohv'), `/v1/nics/${NIC}`);
    assert.ok(nic?.counters);
    return nic.counters as unknown as Record<'tx' | 'rx', Counts>;
  }

  const set = (...flags: string[]) => lab.cli('iohv', 'nic', 'set', NIC, ...flags);

  function waitForCarrier(carrier: 0 | 1): Promise<unknown> {
    return waitFor({ what: `a carrier of ${carrier} in the guest`, timeoutMs: 30_000, intervalMs: 100 }, async () => {
      return (await guest.must('cat /sys/class/net/eth0/carrier')) === `${carrier}`;
    });
  }

  function waitForPing(): Promise<unknown> {
    return waitFor({ what: 'an answer from the outside', timeoutMs: 30_000, intervalMs: 100 }, async () => {
      return (await guest.run(`ping -c 1 -W 1 ${OUTSIDE.ipv4}`)).status === 0;
    });
  }

  /** MB/s of a TCP stream of the guest's; reverse: to the guest. */
  async function stream(seconds: number, ...flags: string[]): Promise<number> {
    const json = await guest.must(`iperf3 -c ${OUTSIDE.ipv4} -t ${seconds} -J ${flags.join(' ')}`);
    const { end } = JSON.parse(json) as { end: { sum_received: { bits_per_second: number } } };
    return end.sum_received.bits_per_second / 8e6;
  }

  test('has as many pairs of queues as it was attached with', async (t) => {
    assert.match(await guest.must('ethtool -l eth0'), /maximums:.*Combined:\s+2.*hardware settings:/s);
    for (const pairs of [2, 1, 2]) {
      await guest.run(`ethtool -L eth0 combined ${pairs}`); // fails when it is so already
      assert.match(await guest.must('ethtool -l eth0'), new RegExp(`hardware settings:.*Combined:\\s+${pairs}`, 's'));
      const [there, back] = [await stream(1, '-P 4'), await stream(1, '-P 4', '-R')];
      t.diagnostic(`measured: ${pairs} pairs, 4 streams: ${there.toFixed(1)} MB/s, back ${back.toFixed(1)} MB/s`);
    }
  });

  test('keeps to the rates that are set', async (t) => {
    const megabytes = { tx: 5, rx: 3 };
    await set('--rate', `tx=${megabytes.tx * 8}M,rx=${megabytes.rx * 8}M`);
    const seen = { tx: await stream(3), rx: await stream(3, '-R') };
    t.diagnostic(`measured: tx ${seen.tx.toFixed(2)} of 5 MB/s, rx ${seen.rx.toFixed(2)} of 3 MB/s`);
    for (const way of ['tx', 'rx'] as const) {
      assert.ok(seen[way] > 0 && seen[way] <= RATE_SLACK * megabytes[way], `${way}: ${seen[way]} MB/s`);
    }
    await set('--rate', 'none');
    const free = await stream(1);
    assert.ok(free > RATE_SLACK * megabytes.tx, `${free} MB/s without a limit`);
  });

  test('has no carrier while its link is down', async () => {
    await set('--link', 'down');
    await waitForCarrier(0);
    const { rx } = await counts();
    assert.notEqual((await guest.run(`ping -c 1 -W 1 ${OUTSIDE.ipv4}`)).status, 0);
    assert.equal((await counts()).rx.packets, rx.packets);
    await set('--link', 'up');
    await waitForCarrier(1);
    await waitForPing();
  });

  test('gets those multicasts only that the guest asked for', async () => {
    // Neighbour discovery asks a group that is made of the address, and nobody but its owner hears.
    const address = 'fd77::12:3456';
    const ping = async () =>
      (await run(lab.segment.wrap('outside', ['ping', '-6', '-c', '2', '-W', '2', address]))).status === 0;
    await waitFor({ what: 'the group to be filtered', timeoutMs: 30_000, intervalMs: 100 }, async () => {
      const { filtered } = (await counts()).rx.dropped;
      assert.ok(!(await ping()), 'nobody has the address');
      return (await counts()).rx.dropped.filtered >= filtered + 2;
    });
    await guest.must(`echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip address add ${address}/64 dev eth0`);
    await waitFor({ what: 'the group to be passed', timeoutMs: 30_000, intervalMs: 100 }, ping);
  });

  test('carries two transfers through the deaths of its engines', async (t) => {
    // Slow enough to last; what is left at the end goes as fast as it can.
    await set('--rate', 'tx=8M,rx=8M');
    await guest.must(`head -c ${FILE_BYTES} /dev/urandom >/tmp/up; sha256sum </tmp/up >/tmp/up.sum`, 300_000);
    // Its input has no end, else it would close the connection.
    const receiver = `sleep 1000 | busybox nc -l -p ${UPLOAD_PORT} | sha256sum`;
    const upload = await outside.start('upload', undefined, ['sh', '-c', receiver]);
    const download = `wget -q -O - http://${OUTSIDE.ipv4}/file | sha256sum >/tmp/down.sum`;
    const background = (command: string, name: string) =>
      `(${command}; touch /tmp/${name}.done) </dev/null >/tmp/${name}.log 2>&1 &`;
    await guest.must(
      `${background(download, 'down')} ${background(`nc ${OUTSIDE.ipv4} ${UPLOAD_PORT} </tmp/up`, 'up')}`,
    );
    const areUnderWay = async () =>
      (await guest.run('test ! -e /tmp/down.done && test ! -e /tmp/up.done')).status === 0;

    for (const side of SIDES) {
      const argv = ['ping', '-D', '-i', `${PING_INTERVAL_S}`, GUEST_ADDRESS] as const;
      const ping = await outside.start(`ping-${side}`, /icmp_seq=/, [...argv]);
      const seen: number[] = [];
      for (let i = 0; i < KILLS; i++) {
        seen.push(await lab.killEngine(side));
        await waitForPing();
      }
      await ping.stop();
      const replies = [...readFileSync(`${lab.dir}/ping-${side}.log`, 'utf8').matchAll(/^\[([\d.]+)\].*icmp_seq=/gm)];
      const times = replies.map(([, time]) => Number(time));
      const gaps = times.slice(1).map((time, i) => time - (times[i] ?? 0));
      t.diagnostic(
        `measured: engine of the ${side} killed ${KILLS} times: no packet for ${(Math.max(...gaps) * 1000).toFixed(0)} ms ` +
          `at the longest, as the supervisor saw them ${seen.map((ms) => ms.toFixed(0)).join(', ')} ms`,
      );
    }
    const errors = () => guest.must('cat /tmp/down.log /tmp/up.log');
    assert.ok(await areUnderWay(), `the transfers lasted until the last engine was killed: ${await errors()}`);

    await set('--rate', 'none');
    await waitFor({ what: 'the transfers to end', timeoutMs: 120_000, intervalMs: 500 }, async () => {
      return (await guest.run('test -e /tmp/down.done && test -e /tmp/up.done')).status === 0;
    });
    const uploaded = await upload.waitForLine(/^[0-9a-f]{64}/, 30_000);
    const sums = await guest.must('cat /tmp/down.sum /tmp/up.sum');
    const [down, up] = sums.split('\n').map((line) => line.split(' ')[0]);
    assert.equal(down, digest, await errors());
    assert.equal(uploaded.split(' ')[0], up, await errors());
  });

  test('is detached while it is in use, by force only', async () => {
    const refused = await lab.tryCli('iohv', 'detach', VM, '--nic', NIC);
    assert.notEqual(refused.status, 0);
    assert.match(refused.stderr, /a guest is using/);
    await lab.cli('iohv', 'detach', VM, '--nic', NIC, '--force');
    await waitForCarrier(0);
    await guest.must('dd if=/dev/vda of=/dev/null bs=64k count=16 iflag=direct');
    await lab.cli('iohv', 'nic', 'rm', NIC);
  });
});
