// A guest's disk while the world around it breaks. The topology is that of test/lab/outrigger.ts, with a
// volume in a file on the root disk and a stock QEMU that runs the test guest:
//
//   guest /dev/vda ── QEMU ── vhost-user ── host agent ══ veth ══ I/O hypervisor ── io_uring ── file
import assert from 'node:assert/strict';
import { renameSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Cleanup } from '../lab/cleanup.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { VerifiedLoad } from './verified-load.js';

const VM = 'vm1';
const KILLS = 3;
const CUT_MS = 5000;
const MISSING_MS = 3000;

describe('a guest with verified I/O under way', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let guest: TestGuest;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup, cacheSize: '0' }); // what is read comes from the storage
    await lab.startBoth();
    await lab.cli('iohv', 'volume', 'create', 'data', '--size', '256M');
    await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', 'data');
    guest = await lab.bootGuest(VM);
  });

  after(() => cleanup.run());

  test('has no error and no mismatch when the engine of the I/O hypervisor is killed', async (t) => {
    const load = await VerifiedLoad.start(guest);
    for (let i = 0; i < KILLS; i++) {
      await lab.killEngine('iohv');
      await load.waitForEndOfPass();
    }
    const { passes, blackoutMs } = await load.stop();
    assert.equal(await load.kernelErrors(), '');
    assert.equal((await lab.iohvStatus()).engine.deaths, KILLS);
    t.diagnostic(
      `measured: engine killed ${KILLS} times: longest blackout ${blackoutMs.toFixed(0)} ms, ${passes} passes`,
    );
  });

  test('has no error and no mismatch when the cable is out for 5 s', async (t) => {
    const load = await VerifiedLoad.start(guest);
    lab.segment.setLink('down');
    await sleep(CUT_MS);
    lab.segment.setLink('up');
    await lab.waitForSession();
    await load.waitForEndOfPass();
    const { passes, blackoutMs } = await load.stop();
    assert.equal(await load.kernelErrors(), '');
    // Otherwise the cut was none: nothing can be answered while the cable is out.
    assert.ok(blackoutMs > CUT_MS * 0.8, `the guest was without its disk for only ${blackoutMs} ms`);
    t.diagnostic(`measured: cable out for ${CUT_MS} ms: blackout ${blackoutMs.toFixed(0)} ms, ${passes} passes`);
  });

  test('waits for a volume that is missing when the engine comes back', async () => {
    const load = await VerifiedLoad.start(guest);
    const file = `${lab.volumeDir}/data.raw`;
    renameSync(file, `${file}.away`);
    await lab.killEngine('iohv');
    await sleep(MISSING_MS);
    renameSync(`${file}.away`, file);
    await load.waitForEndOfPass();
    const { blackoutMs } = await load.stop();
    assert.equal(await load.kernelErrors(), '');
    assert.ok(blackoutMs > MISSING_MS * 0.8, `the guest was without its disk for only ${blackoutMs} ms`);
  });

  test('keeps its disk across a power cycle, and the disk can be detached afterwards', async () => {
    const sum = 'dd if=/dev/vda bs=1M count=16 iflag=direct 2>/dev/null | sha256sum';
    const before = await guest.must(sum);
    await guest.powerOff();
    guest = await lab.bootGuest(VM, { name: `${VM}-again` });
    assert.equal(await guest.must(sum), before);
    await guest.powerOff();
    await lab.cli('iohv', 'detach', VM);
    await lab.cli('iohv', 'volume', 'rm', 'data');
    assert.deepEqual((await lab.iohvStatus()).volumes, []);
  });
});
