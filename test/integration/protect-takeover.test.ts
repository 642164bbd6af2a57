// Two QEMUs of one VM, on two hosts, in one domain: one runs, the other waits. The second takes over in the middle of
// a storm of writes of the first, which is not told and goes on: nothing of it may reach the disk or the network.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { EpochError } from '../../src/protect/epoch-client.js';
import { EpochDriver } from '../../src/protect/epoch-driver.js';
import { Cleanup } from '../lab/cleanup.js';
import { domainOf } from '../lab/domain.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAMES, Outrigger } from '../lab/outrigger.js';
import { BRIDGE, OUTSIDE, Outside } from '../lab/outside.js';
import { Qmp } from '../lab/qmp.js';
import { waitFor } from '../lab/wait.js';
import { replayFile, replayStorm, Storm } from './ledger.js';

const DOMAIN = 'd1';
const ACTIVE = 'vm1-a';
const STANDBY = 'vm1-b';
const EVERY_MS = 25;
const DISK = '/dev/vda';
const ADDRESS = '10.77.0.2';
const WRITES = 300;
const SNAPSHOTS = 3;
/** Digests of the disk's files, so long after each other, while the fenced copy writes on. */
const DIGESTS = 3;
const DIGEST_PAUSE_MS = 1000;

describe('a copy of a VM takes over in a storm of writes of the other', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let outside: Outside;
  let driver: EpochDriver;
  let active: TestGuest;
  let standby: { qmp: Qmp; guest: Promise<TestGuest> };
  let storm: Storm;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup, secondHost: true });
    outside = Outside.open({ segment: lab.segment, dir: lab.dir, cleanup, bridged: true });
    await lab.startBoth();
    await lab.cli('iohv', 'volume', 'create', 'data', '--size', '4M');
    await lab.cli('iohv', 'nic', 'create', 'nic1', '--bridge', BRIDGE);
    await attach(ACTIVE, 'host');
    await lab.cli('iohv', 'protect', 'domain', 'create', DOMAIN, '--vm', ACTIVE);
    await lab.cli('iohv', 'protect', 'domain', 'add', DOMAIN, STANDBY, '--standby');
    await attach(STANDBY, 'host2');
    active = await lab.bootGuest(ACTIVE);
    standby = await startPaused();
    await active.must(`ip link set eth0 up; ip address add ${ADDRESS}/24 dev eth0`);
    driver = await EpochDriver.start({ socket: (await domainOf(lab, DOMAIN)).socket, everyMs: EVERY_MS });
    await waitFor({ what: 'an answer from the outside', timeoutMs: 60_000, intervalMs: 100 }, async () => {
      return (await active.run(`ping -c 1 -W 2 ${OUTSIDE.ipv4}`)).status === 0;
    });
    storm = await Storm.start(outside, active, OUTSIDE.ipv4, DISK);
    await storm.waitForWrites(WRITES);
  });

  after(async () => {
    await driver?.stop().catch(() => {});
    cleanup.run();
  });

  function attach(vm: string, host: 'host' | 'host2'): Promise<string> {
    return lab.cli('iohv', 'attach', vm, '--host', HOST_NAMES[host], '--disk', 'data', '--nic', 'nic1');
  }

  /** The copy that waits: it is connected to its devices, and has run no instruction. */
  async function startPaused(): Promise<typeof standby> {
    const path = `${lab.dir}/standby.qmp`;
    const args = (ofVm: string[]) => [...ofVm, '-S', '-qmp', `unix:${path},server=on,wait=off`];
    const guest = lab.bootGuest(STANDBY, { args });
    let ended = false;
    guest.catch(() => {
      ended = true;
    });
    return { qmp: await Qmp.open(path, () => !ended), guest };
  }

  /** Of all files of the volume: what is there, whoever wrote it. */
  function digest(): string {
    const hash = createHash('sha256');
    const files = readdirSync(lab.volumeDir).filter((name) => name.startsWith('data'));
    for (const name of files.sort()) {
      hash.update(readFileSync(`${lab.volumeDir}/${name}`));
    }
    return hash.digest('hex');
  }

  test('and snapshots before it hold committed epochs only, and these as a whole', async (t) => {
    const states: string[] = [];
    for (let n = 0; n < SNAPSHOTS; n++) {
      const { heard } = storm;
      await lab.cli('iohv', 'volume', 'snapshot', 'create', 'data', `s${n}`);
      await lab.cli('iohv', 'volume', 'export', `data@s${n}`, `${lab.dir}/s${n}.orvol`);
      await lab.cli('iohv', 'volume', 'import', `copy${n}`, `${lab.dir}/s${n}.orvol`);
      const last = replayFile(`${lab.volumeDir}/copy${n}.raw`);
      assert.ok(last >= heard, `the outside had heard of ${heard}, the snapshot holds ${last}`);
      states.push(`${last} (heard ${heard})`);
      await storm.waitForWrites(WRITES);
    }
    t.diagnostic(`measured: snapshots hold ${states.join(', ')} writes`);
  });

  test('and not a byte of the fenced one lands, nor a frame', async (t) => {
    const before = await domainOf(lab, DOMAIN);
    await lab.cli('iohv', 'protect', 'domain', 'takeover', DOMAIN);
    await sleep(200); // what is on its way to the listener is heard
    const { heard } = storm;
    const after = await domainOf(lab, DOMAIN);
    assert.equal(after.generation, before.generation + 1);
    await waitFor({ what: 'the committed epochs to be applied', timeoutMs: 60_000 }, async () => {
      const { applied, held_bytes } = (await domainOf(lab, DOMAIN)).counters;
      return applied >= after.counters.committed && held_bytes === 0;
    });

    const digests = [digest()];
    const errors = await storm.errors();
    while (digests.length < DIGESTS) {
      await sleep(DIGEST_PAUSE_MS);
      digests.push(digest());
    }
    assert.equal(new Set(digests).size, 1, digests.join('\n'));
    assert.ok((await storm.errors()) > errors, 'the fenced copy goes on writing, and is refused');
    const { writes_fenced, packets_fenced } = (await domainOf(lab, DOMAIN)).counters;
    assert.ok(writes_fenced > 0); // and packets, unless the NIC of the fenced copy was closed before it sent one
    await assert.rejects(driver.ended, ({ code }: EpochError) => code === 'stale');

    await standby.qmp.execute('cont');
    const guest = await standby.guest;
    const last = await replayStorm(guest, DISK);
    assert.ok(last >= storm.heard, `the outside heard of ${storm.heard}, the disk holds ${last}`);
    assert.equal(storm.heard, heard, 'no frame of the fenced copy is out');
    t.diagnostic(
      `measured: the disk holds ${last} writes, the outside had heard of ${heard}; fenced: ${writes_fenced} writes, ${packets_fenced} packets`,
    );
  });

  test('and works, on the network too', async () => {
    const guest = await standby.guest;
    driver = await EpochDriver.start({ socket: (await domainOf(lab, DOMAIN)).socket, everyMs: EVERY_MS });
    await guest.must(`ip link set eth0 up; ip address add ${ADDRESS}/24 dev eth0`);
    await waitFor({ what: 'an answer from the outside', timeoutMs: 60_000, intervalMs: 100 }, async () => {
      return (await guest.run(`ping -c 1 -W 2 ${OUTSIDE.ipv4}`)).status === 0;
    });
    const old = digest();
    await guest.must(`dd if=/dev/urandom of=${DISK} bs=4k count=16 oflag=direct`);
    await waitFor({ what: 'its writes to land', timeoutMs: 60_000 }, () => digest() !== old);
    assert.notEqual((await active.run(`dd if=${DISK} of=/dev/null bs=4k count=1 iflag=direct`)).status, 0);
  });
});
