// Guests on the block cache of the I/O hypervisor: what write-back promises when everything dies, what a smaller
// budget, an upgrade and the end of an engine mean for what is dirty, and what clones of one base share.
//
//   guest ── QEMU ── host agent ══ veth ══ I/O hypervisor: block cache ── file, or an overlay over a shared base
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CacheView } from '../../src/api/cache-schemas.js';
import { getJson } from '../lab/api.js';
import { Cleanup } from '../lab/cleanup.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { waitFor } from '../lab/wait.js';
import { VerifiedLoad } from './verified-load.js';

const MIB = 1 << 20;
const WAIT_MS = 60_000;
/** Dirty blocks wait so long that only a flush or the end writes them out. */
const NEVER = '1h';

async function cacheOf(lab: Outrigger): Promise<CacheView> {
  const view = await getJson<CacheView>(lab.socket('iohv'), '/v1/cache');
  assert.ok(view);
  return view;
}

const sha256 = (data: Buffer) => createHash('sha256').update(data).digest('hex');

describe('a guest on a volume in write-back', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let guest: TestGuest;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup, cacheSize: '64M' });
    await lab.startBoth();
    const cache = ['--cache', 'write-back', '--dirty-age', NEVER, '--dirty-max', '32M'];
    await lab.cli('iohv', 'volume', 'create', 'data', '--size', '256M', ...cache);
    await lab.cli('iohv', 'attach', 'vm1', '--host', HOST_NAME, '--disk', 'data');
    guest = await lab.bootGuest('vm1');
  });

  after(() => cleanup.run());

  const dirty = async () => (await cacheOf(lab)).counters.dirty_bytes;
  /** What the file holds, behind the back of everyone. */
  function inFile(offset: number, length: number): Buffer {
    const file = openSync(`${lab.volumeDir}/data.raw`, 'r');
    const data = Buffer.alloc(length);
    readSync(file, data, 0, length, offset);
    closeSync(file);
    return data;
  }
  const put = (seek: number) =>
    guest.must(`dd if=/dev/urandom of=/dev/vda bs=1M seek=${seek} count=4 oflag=direct conv=notrunc 2>/dev/null`);
  const sumOf = async (skip: number) =>
    (await guest.must(`dd if=/dev/vda bs=1M skip=${skip} count=4 iflag=direct 2>/dev/null | sha256sum`)).split(' ')[0];

  test('has its writes in memory until it flushes, and in the file after that', async () => {
    await put(200);
    assert.ok((await dirty()) >= 4 * MIB, 'the writes are dirty');
    const sum = await sumOf(200);
    assert.notEqual(sha256(inFile(200 * MIB, 4 * MIB)), sum);
    await guest.must(
      'blockdev --flushbufs /dev/vda; sync; dd if=/dev/zero of=/dev/vda bs=4k seek=60000 count=1 conv=fsync',
    );
    assert.equal(sha256(inFile(200 * MIB, 4 * MIB)), sum);
    assert.equal(await dirty(), 0);
  });

  test('sees no error and no mismatch while the budget shrinks and grows', async () => {
    const load = await VerifiedLoad.start(guest);
    for (const size of ['8M', '48M', '4M', 'default']) {
      await lab.cli('iohv', 'cache', 'set', '--size', size);
      await load.waitForEndOfPass();
      const { size_bytes: wanted } = await cacheOf(lab);
      await waitFor({ what: `the cache to have ${size}`, timeoutMs: WAIT_MS }, async () => {
        const [worker] = (await cacheOf(lab)).workers;
        return worker !== undefined && worker.bytes === worker.target_bytes && worker.bytes <= wanted;
      });
    }
    await load.stop();
    assert.equal(await load.kernelErrors(), '');
  });

  test('nor while its mode changes', async () => {
    const load = await VerifiedLoad.start(guest);
    for (const mode of ['write-through', 'none', 'write-back']) {
      await lab.cli('iohv', 'volume', 'set', 'data', '--cache', mode);
      await load.waitForEndOfPass();
      assert.equal((await cacheOf(lab)).volumes[0]?.mode, mode);
    }
    await load.stop();
    assert.equal(await load.kernelErrors(), '');
  });

  test('nor when the engine is upgraded, which writes out what is dirty', async () => {
    await put(204);
    const sum = await sumOf(204);
    assert.ok((await dirty()) > 0);
    const load = await VerifiedLoad.start(guest);
    await lab.settledEngine('iohv');
    await lab.cli('iohv', 'engine', 'upgrade');
    await load.waitForEndOfPass();
    await load.stop();
    assert.equal(await load.kernelErrors(), '');
    assert.equal(await sumOf(204), sum);
  });

  test('finds everything that it has flushed when all dies at once, and a clean file system', async () => {
    await guest.must('mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt');
    const fio =
      'fio --name=kept --filename=/mnt/kept --size=8M --bs=4k --rw=randwrite --verify=crc32c --ioengine=psync --eta=never';
    await guest.must(`${fio} --do_verify=0 --end_fsync=1 && sync /mnt`);
    await guest.must('(while :; do cp /mnt/kept /mnt/more; rm /mnt/more; done) >/dev/null 2>&1 &');
    await waitFor({ what: 'dirty blocks', timeoutMs: WAIT_MS }, async () => (await dirty()) > 0);
    await sleep(Math.random() * 500);
    process.kill(await lab.enginePid('iohv'), 'SIGKILL');
    process.kill(guest.qemu.process.pid, 'SIGKILL');
    await guest.qemu.process.ended;
    await lab.settledEngine('iohv');
    guest = await lab.bootGuest('vm1', { name: 'vm1-again' });
    const fsck = await guest.run('e2fsck -fp /dev/vda');
    assert.ok(fsck.status <= 1, `e2fsck: ${fsck.output}`); // 1: it has replayed the journal
    await guest.must('e2fsck -fn /dev/vda && mount /dev/vda /mnt');
    await guest.must(`${fio} --verify_only`);
    await guest.must('umount /mnt');
  });

  test('leaves nothing behind in memory when the I/O hypervisor stops', async () => {
    await put(208);
    const sum = await sumOf(208);
    assert.ok((await dirty()) > 0);
    await lab.supervisor('iohv').stop();
    assert.equal(sha256(inFile(208 * MIB, 4 * MIB)), sum);
    await lab.start('iohv');
    await lab.waitForSession();
    assert.equal(await sumOf(208), sum);
  });
});

const CLONES = 8;
const BASE_MIB = 32;

describe(`${CLONES} clones of one base that are read at the same time`, () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup, cacheSize: '128M' });
    await lab.startBoth();
  });

  after(() => cleanup.run());

  test('have each shared block read from the storage once', async (t) => {
    await lab.cli('iohv', 'volume', 'create', 'base', '--size', `${BASE_MIB}M`);
    await lab.cli('iohv', 'attach', 'maker', '--host', HOST_NAME, '--disk', 'base');
    const maker = await lab.bootGuest('maker');
    await maker.must(`dd if=/dev/urandom of=/dev/vda bs=1M count=${BASE_MIB} oflag=direct conv=fsync 2>/dev/null`);
    const sum = await maker.must('dd if=/dev/vda bs=1M iflag=direct 2>/dev/null | sha256sum');
    await maker.powerOff();
    await lab.cli('iohv', 'detach', 'maker', '--force');
    const names = Array.from({ length: CLONES }, (_, i) => `clone${i}`);
    for (const name of names) {
      await lab.cli('iohv', 'volume', 'create', name, '--from', 'base');
    }
    await lab.cli('iohv', 'attach', 'vm1', '--host', HOST_NAME, ...names.flatMap((name) => ['--disk', name]));
    await lab.supervisor('iohv').stop(); // a cache that knows nothing
    await lab.start('iohv');
    await lab.waitForSession();
    const guest = await lab.bootGuest('vm1');
    const disks = [...'abcdefgh'].map((letter) => `vd${letter}`);
    const read = (disk: string) => `dd if=/dev/${disk} bs=64k iflag=direct 2>/dev/null | sha256sum >/tmp/${disk} &`;
    await guest.must(`${disks.map(read).join(' ')} wait`);
    for (const disk of disks) {
      assert.equal(await guest.must(`cat /tmp/${disk}`), sum);
    }
    const { counters } = await cacheOf(lab);
    assert.equal(counters.fetched_bytes, BASE_MIB * MIB, 'each block once');
    assert.equal(counters.evictions, 0);
    const saved = counters.shared_bytes / MIB;
    t.diagnostic(
      `measured: ${CLONES} clones read ${BASE_MIB} MiB each, ${saved.toFixed(0)} MiB out of what others read`,
    );
    await guest.powerOff();
  });
});
