// Two guests whose NICs are joined by test/tools/nic_patch.c: the front-end of the product as stock QEMUs and
// Linux see it, with several queue pairs on one side, jumbo frames and segmentation offloads.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { findAccel } from '../lab/accel.js';
import { Cleanup } from '../lab/cleanup.js';
import { TestGuest } from '../lab/guest.js';
import { makeLabDir } from '../lab/lab-dir.js';
import { repoRoot } from '../lab/paths.js';
import { LabProcess } from '../lab/process.js';
import { waitFor } from '../lab/wait.js';

const MEMORY_MIB = 384;
const MTU = 9000;
const PAIRS = 2;
const ADDRESS_A = '10.0.0.1';
const ADDRESS_B = '10.0.0.2';
const DOWNLOAD_MIB = 32;

describe('two guests whose NICs are patched to each other', () => {
  const cleanup = new Cleanup();
  let dir: string;
  let patch: LabProcess;
  let a: TestGuest;
  let b: TestGuest;
  let checksum: string;

  const socketOf = (name: string) => `${dir}/${name}.nic`;

  function startPatch(): void {
    const sizes = ['--pairs', `${PAIRS}`, '--mtu', `${MTU}`];
    patch = new LabProcess({
      name: 'nic_patch',
      argv: [`${repoRoot}/build-rel/tools/nic_patch`, ...sizes, socketOf('a'), socketOf('b')],
      logFile: `${dir}/nic_patch.log`,
      cleanup,
    });
  }

  async function boot(name: string, address: string, queues: number): Promise<TestGuest> {
    const mac = `52:54:00:00:00:0${address.at(-1)}`;
    const accel = await findAccel();
    const guest = await TestGuest.boot({
      dir,
      name,
      accel,
      cleanup,
      memoryMib: MEMORY_MIB,
      args: [
        ...['-object', `memory-backend-memfd,id=mem,size=${MEMORY_MIB}M,share=on`],
        ...['-machine', 'memory-backend=mem', '-smp', `${queues}`],
        ...['-chardev', `socket,id=nic,path=${socketOf(name)},reconnect=1`],
        ...['-netdev', `vhost-user,id=net0,chardev=nic,queues=${queues}`],
        '-device',
        `virtio-net-pci,netdev=net0,mac=${mac},host_mtu=${MTU},mq=${queues > 1 ? 'on' : 'off'},vectors=${2 * queues + 2},ctrl_guest_offloads=off`,
      ],
    });
    await guest.must(`ip link set eth0 up && ip addr add ${address}/24 dev eth0`);
    return guest;
  }

  /** Lets one guest download from the other. */
  async function download(to: TestGuest, address: string): Promise<void> {
    assert.equal(await to.must(`wget -q -O - http://${address}/data | md5sum`), checksum);
  }

  before(async () => {
    cleanup.onSignals();
    dir = makeLabDir(cleanup);
    startPatch();
    await waitFor({ what: 'the sockets', timeoutMs: 30_000 }, () => existsSync(socketOf('b')));
    [a, b] = await Promise.all([boot('a', ADDRESS_A, PAIRS), boot('b', ADDRESS_B, 1)]);
    await a.must(
      `mkdir /tmp/www && dd if=/dev/urandom of=/tmp/www/data bs=1M count=${DOWNLOAD_MIB} && httpd -h /tmp/www`,
    );
    checksum = await a.must('md5sum </tmp/www/data');
    await b.must(`mkdir /tmp/www && wget -q -O /tmp/www/data http://${ADDRESS_A}/data && httpd -h /tmp/www`);
  });

  after(() => cleanup.run());

  test('have the queues and the MTU that they were given', async () => {
    assert.equal(await a.must('ls /sys/class/net/eth0/queues | wc -l'), `${2 * PAIRS}`);
    assert.equal(await b.must('ls /sys/class/net/eth0/queues | wc -l'), '2');
    assert.equal(await b.must('cat /sys/class/net/eth0/mtu'), `${MTU}`);
  });

  test('reach each other, with frames of 9000 bytes too', async () => {
    await a.must(`ping -c 3 ${ADDRESS_B}`);
    await a.must(`ping -c 3 -s ${MTU - 28} ${ADDRESS_B}`);
  });

  test('download from each other, and what they send are segments of tens of kilobytes', async () => {
    const statistic = (name: string) => a.must(`cat /sys/class/net/eth0/statistics/${name}`).then(Number);
    const before = [await statistic('tx_bytes'), await statistic('tx_packets')] as const;
    await download(b, ADDRESS_A);
    const bytes = (await statistic('tx_bytes')) - before[0];
    const packets = (await statistic('tx_packets')) - before[1];
    assert.ok(bytes / packets > MTU, `${bytes} bytes in ${packets} packets`);
    await download(a, ADDRESS_B);
  });

  test('are joined again when what serves their NICs was killed', async () => {
    patch.kill();
    await patch.ended;
    startPatch();
    await waitFor({ what: 'the guests to reach each other again', timeoutMs: 60_000 }, async () => {
      return (await a.run(`ping -c 1 -W 1 ${ADDRESS_B}`)).status === 0;
    });
    await download(a, ADDRESS_B);
  });
});
