// Storage that fails below a guest's disks: what the guest, the operator and the next engine hear of it.
//
//   vda  a sparse file on a small tmpfs, which fills up
//   vdb  a file that someone cuts short
//   vdc  a loop device whose backing file is cut short
import assert from 'node:assert/strict';
import { mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import type { VolumeView } from '../../src/api/schemas.js';
import type { LoggedEvent } from '../../src/telemetry/events.js';
import { getJson } from '../lab/api.js';
import { Cleanup } from '../lab/cleanup.js';
import { runSync } from '../lab/command.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { waitFor } from '../lab/wait.js';

const VM = 'vm1';
const MIB = 1 << 20;
const WAIT_MS = 30_000;

describe('a guest whose storage fails', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let guest: TestGuest;
  let small: string;
  let loopFile: string;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup, cacheSize: '0' }); // what is read comes from the storage
    small = `${lab.dir}/small`;
    mkdirSync(small);
    runSync(['mount', '-t', 'tmpfs', '-o', 'size=16m', 'none', small]);
    cleanup.add(() => void runSync(['umount', '--lazy', small]));
    writeFileSync(`${small}/filler`, Buffer.alloc(8 * MIB, 1));
    sparseFile(`${small}/full.raw`, 64 * MIB);
    loopFile = `${lab.dir}/backing.raw`;
    sparseFile(loopFile, 64 * MIB);
    const loop = runSync(['losetup', '--find', '--show', loopFile]).trim();
    cleanup.add(() => void runSync(['losetup', '--detach', loop]));

    await lab.startBoth();
    await lab.cli('iohv', 'volume', 'create', 'full', '--adopt', `${small}/full.raw`);
    await lab.cli('iohv', 'volume', 'create', 'cut', '--size', '64M');
    await lab.cli('iohv', 'volume', 'create', 'loop', '--adopt', loop);
    const disks = ['full', 'cut', 'loop'].flatMap((name) => ['--disk', name]);
    await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, ...disks);
    guest = await lab.bootGuest(VM);
  });

  after(() => cleanup.run());

  const write = (disk: string, count: number) =>
    guest.run(`dd if=/dev/zero of=/dev/${disk} bs=1M count=${count} oflag=direct conv=fsync,notrunc`);
  const read = (disk: string, skip: number) =>
    guest.run(`dd if=/dev/${disk} of=/dev/null bs=1M count=1 skip=${skip} iflag=direct`);

  async function volume(name: string): Promise<VolumeView> {
    const found = (await lab.iohvStatus()).volumes.find((other) => other.name === name);
    assert.ok(found);
    return found;
  }

  async function waitForErrors(name: string): Promise<VolumeView> {
    await waitFor(
      { what: `the errors of ${name} to be told`, timeoutMs: WAIT_MS },
      async () => (await volume(name)).errors > 0,
    );
    return volume(name);
  }

  async function eventsOf(name: string): Promise<LoggedEvent[]> {
    const events = await getJson<LoggedEvent[]>(lab.socket('iohv'), '/v1/events');
    return (events ?? []).filter(({ kind, fields }) => kind === 'volume.error' && fields.volume === name);
  }

  test('hears that the storage is full, and goes on when it is not any more', async () => {
    assert.equal((await write('vda', 4)).status, 0);
    const refused = await write('vda', 12);
    assert.notEqual(refused.status, 0, refused.output);
    const { errors, last_error, state } = await waitForErrors('full');
    assert.ok(errors > 0);
    assert.match(last_error ?? '', /^write at \d+: ENOSPC$/);
    assert.equal(state, 'open', 'nothing that was acknowledged is lost');
    const events = await eventsOf('full');
    assert.ok(events.some(({ fields }) => fields.op === 'write' && fields.error === 'ENOSPC'));
    assert.ok(events.every(({ fields }) => fields.flush_failed === false));

    rmSync(`${small}/filler`);
    const again = await write('vda', 12);
    assert.equal(again.status, 0, again.output);
    assert.equal((await read('vda', 11)).status, 0);
  });

  test('hears of data that is gone, and no flush succeeds any more, in the next engine neither', async () => {
    assert.equal((await write('vdb', 32)).status, 0);
    truncateSync(`${lab.volumeDir}/cut.raw`, 4 * MIB);
    assert.equal((await read('vdb', 1)).status, 0);
    assert.notEqual((await read('vdb', 16)).status, 0);
    const failed = await waitForErrors('cut');
    assert.equal(failed.state, 'failed');
    assert.match(failed.reason, /became shorter.*detach/);
    assert.match(await lab.cli('iohv', 'volume', 'show', 'cut'), /errors +[1-9]\d*, the last: read at \d+: EIO/);
    assert.notEqual((await write('vdb', 1)).status, 0);

    const victim = await lab.enginePid('iohv');
    process.kill(victim, 'SIGKILL');
    await waitFor({ what: 'a new engine', timeoutMs: WAIT_MS * 2 }, async () => {
      const engine = (await lab.tryStatus('iohv'))?.engine;
      return engine?.state === 'running' && engine.pid !== victim;
    });
    await lab.waitForSession();
    assert.notEqual((await write('vdb', 1)).status, 0, 'a new engine makes nothing good');
    assert.equal((await volume('cut')).state, 'failed');
    // The others never noticed.
    assert.equal((await write('vda', 1)).status, 0);
    assert.equal((await write('vdc', 1)).status, 0);
  });

  test('hears that a device has lost its blocks', async () => {
    assert.equal((await write('vdc', 32)).status, 0);
    truncateSync(loopFile, 4 * MIB);
    assert.notEqual((await read('vdc', 16)).status, 0);
    const { last_error } = await waitForErrors('loop');
    assert.match(last_error ?? '', /EIO$/);
    assert.equal((await read('vdc', 1)).status, 0);
  });

  test('a volume that lost data serves again when everybody who was promised it is detached', async () => {
    await guest.powerOff();
    await lab.cli('iohv', 'detach', VM);
    await waitFor({ what: 'the volume to be opened anew', timeoutMs: WAIT_MS }, async () => {
      const { state } = await volume('cut');
      return state === 'open';
    });
    assert.equal((await volume('cut')).errors, 0);
  });
});

function sparseFile(path: string, bytes: number): void {
  writeFileSync(path, '');
  truncateSync(path, bytes);
}
