// A guest whose output is held until its epoch is committed, every 25 ms, while the processes that hold it die. A
// client outside has numbers written by the guest; no reply may be seen whose write is lost.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type DriverResult, EpochDriver } from '../../src/protect/epoch-driver.js';
import { Cleanup } from '../lab/cleanup.js';
import { domainOf, tryDomain } from '../lab/domain.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { BRIDGE, OUTSIDE, Outside } from '../lab/outside.js';
import { isLongRun } from '../lab/run-length.js';
import { waitFor } from '../lab/wait.js';
import { LedgerClient, missingNumbers } from './ledger.js';

const VM = 'vm1';
const DOMAIN = 'd1';
const EVERY_MS = 25;
const KILLS = isLongRun ? 100 : 10;
const LOSSES = isLongRun ? 10 : 2;
const REPLIES_MAX = 60;
const PAUSE_MS_MAX = 300;
const GUEST_ADDRESS = '10.77.0.2';
const LEDGER = '/dev/vda';
const FILES = '/dev/vdb';

/** Files that are written and read back from the disk, pass after pass. */
const FILE_LOAD = `
(
    n=0
    while [ ! -e /tmp/files.stop ]; do
        n=$((n + 1))
        head -c 200000 /dev/urandom >/tmp/file
        cp /tmp/file /mnt/file.$((n % 20)) && sync && echo 3 >/proc/sys/vm/drop_caches
        cmp /tmp/file /mnt/file.$((n % 20)) || { echo "pass $n" >/tmp/files.failed; break; }
        rm -f /mnt/file.$(((n + 7) % 20))
        echo $n >/tmp/files.pass
    done
    touch /tmp/files.ended
) </dev/null >/tmp/files.log 2>&1 &
`;

describe('a guest whose output is held', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let outside: Outside;
  let guest: TestGuest;
  let driver: EpochDriver;
  let boots = 0;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup });
    outside = Outside.open({ segment: lab.segment, dir: lab.dir, cleanup, bridged: true });
    await lab.startBoth();
    await lab.cli('iohv', 'volume', 'create', 'ledger', '--size', '32M');
    await lab.cli('iohv', 'volume', 'create', 'files', '--size', '64M');
    await lab.cli('iohv', 'nic', 'create', 'nic1', '--bridge', BRIDGE);
    const disks = ['--disk', 'ledger', '--disk', 'files'];
    await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, ...disks, '--nic', 'nic1');
    await lab.cli('iohv', 'protect', 'domain', 'create', DOMAIN, '--vm', VM);
    await bootGuest();
    await guest.must(`mkfs.ext4 -q ${FILES}`);
    await startDriver();
    await waitForPing();
  });

  after(async () => {
    await driver?.stop().catch(() => {});
    cleanup.run();
  });

  async function bootGuest(): Promise<void> {
    guest = await lab.bootGuest(VM, { name: `${VM}-${boots++}` });
    await guest.must(`ip link set eth0 up; ip address add ${GUEST_ADDRESS}/24 dev eth0`);
  }

  async function startDriver(): Promise<void> {
    driver = await EpochDriver.start({ socket: (await domainOf(lab, DOMAIN)).socket, everyMs: EVERY_MS });
  }

  function waitForPing(): Promise<unknown> {
    return waitFor({ what: 'an answer from the outside', timeoutMs: 60_000, intervalMs: 100 }, async () => {
      return (await guest.run(`ping -c 1 -W 2 ${OUTSIDE.ipv4}`)).status === 0;
    });
  }

  /** The disk has every number of which the client saw the reply. */
  async function checkLedger(client: LedgerClient): Promise<void> {
    assert.deepEqual(client.complaints, []);
    assert.deepEqual(await missingNumbers(guest, LEDGER, client.seen), []);
  }

  test('lets nothing out before its epoch is committed', async () => {
    await driver.stop();
    const client = await LedgerClient.start(outside, guest, GUEST_ADDRESS, LEDGER);
    await waitFor({ what: 'packets to be held', timeoutMs: 60_000 }, async () => {
      return (await domainOf(lab, DOMAIN)).counters.held_bytes > 0;
    });
    await sleep(500);
    assert.equal(client.seen.size, 0);
    const drive = ['protect', 'domain', 'drive', DOMAIN, '--every', `${EVERY_MS}ms`, '--count', '20', '--json'];
    const { epochs } = JSON.parse(await lab.cli('iohv', ...drive)) as DriverResult;
    assert.equal(epochs, 20);
    await startDriver();
    await client.waitForReplies();
    await client.stop();
    await checkLedger(client);
    await guest.must('killall ledger');
  });

  test(`notices nothing when the engine is killed ${KILLS} times`, async (t) => {
    await guest.must(`mount ${FILES} /mnt; rm -f /tmp/files.*; dmesg -c >/dev/null`);
    await guest.must(FILE_LOAD);
    const client = await LedgerClient.start(outside, guest, GUEST_ADDRESS, LEDGER, 10_000);
    const seen: number[] = [];
    for (let kill = 0; kill < KILLS; kill++) {
      await client.waitForReplies(1 + Math.floor(Math.random() * REPLIES_MAX));
      await lab.settledEngine('iohv');
      await sleep(Math.random() * PAUSE_MS_MAX);
      seen.push(await lab.killEngine('iohv'));
    }
    await client.waitForReplies();
    await client.stop();
    await checkLedger(client);
    await guest.must('killall ledger; touch /tmp/files.stop');
    await waitFor({ what: 'the file load to end', timeoutMs: 120_000, intervalMs: 200 }, async () => {
      return (await guest.run('test -e /tmp/files.ended')).status === 0;
    });
    assert.equal(await guest.must('cat /tmp/files.failed /tmp/files.log 2>/dev/null || true'), '');
    await guest.must(`umount /mnt && e2fsck -fn ${FILES}`);
    assert.equal((await guest.run("dmesg | grep -iE 'I/O error|EXT4-fs error'")).output, '');
    const { state, generation } = await domainOf(lab, DOMAIN);
    assert.deepEqual([state, generation], ['running', 1]);
    t.diagnostic(
      `measured: killed ${KILLS} times, ${client.seen.size} replies seen, none lost; blackouts ${seen.map((ms) => ms.toFixed(0)).join(', ')} ms`,
    );
  });

  test('has what was held also after its supervisor and then the engine were killed', async () => {
    const client = await LedgerClient.start(outside, guest, GUEST_ADDRESS, LEDGER, 30_000);
    await client.waitForReplies(10);
    lab.supervisor('iohv').kill();
    await lab.supervisor('iohv').ended;
    await client.waitForReplies(10); // the engine goes on
    await lab.start('iohv');
    await lab.killEngine('iohv');
    await client.waitForReplies(10);
    await client.stop();
    await checkLedger(client);
    await guest.must('killall ledger');
  });

  for (let loss = 0; loss < LOSSES; loss++) {
    test(`is refused its disks when everything was lost, until it was reset (${loss + 1})`, async () => {
      const client = await LedgerClient.start(outside, guest, GUEST_ADDRESS, LEDGER, 40_000 + 2_000 * loss);
      await client.waitForReplies(20 + Math.floor(Math.random() * REPLIES_MAX));
      await sleep(Math.random() * PAUSE_MS_MAX);
      await loseEverything();
      await sleep(200); // what is on its way to the client is seen
      await client.stop();
      await driver.stop().catch(() => {});

      await lab.start('iohv');
      await waitFor({ what: 'a domain to rewind', timeoutMs: 60_000 }, async () => {
        return (await tryDomain(lab, DOMAIN))?.state === 'rewind';
      });
      await bootGuest();
      assert.notEqual((await guest.run(`dd if=${LEDGER} of=/dev/null bs=4k count=1 iflag=direct`)).status, 0);
      const { generation } = await domainOf(lab, DOMAIN);
      await lab.cli('iohv', 'protect', 'domain', 'reset', DOMAIN);
      assert.equal((await domainOf(lab, DOMAIN)).generation, generation + 1);
      await waitFor({ what: 'the disks to work', timeoutMs: 60_000, intervalMs: 100 }, async () => {
        return (await guest.run(`dd if=${LEDGER} of=/dev/null bs=4k count=1 iflag=direct`)).status === 0;
      });
      await checkLedger(client);
      await guest.must(`e2fsck -fp ${FILES} || test $? = 1`);
      await startDriver();
      await waitForPing();
    });
  }

  /** The guest, and all processes of the I/O hypervisor at once. */
  async function loseEverything(): Promise<void> {
    await lab.settledEngine('iohv');
    for (const pid of [await lab.enginePid('iohv'), lab.supervisor('iohv').pid, guest.qemu.process.pid]) {
      process.kill(pid, 'SIGKILL');
    }
    await Promise.all([lab.supervisor('iohv').ended, guest.qemu.process.ended]);
  }
});
