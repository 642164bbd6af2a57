// What somebody who listens on the segment can read, in `mac` and in `encrypt`; and that a guest's disk works
// encrypted, also when the engine of the I/O hypervisor dies.
//
//   guest ── QEMU ── host agent ══ wiretap ══ veth ══ wiretap ══ I/O hypervisor ── ram
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Integrity } from '../../src/supervisor/protocol.js';
import { Cleanup } from '../lab/cleanup.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { waitFor } from '../lab/wait.js';
import { type Overheard, Wiretap } from '../lab/wiretap.js';
import { VerifiedLoad } from './verified-load.js';

const VM = 'vm1';
const VOLUME = 'volume-with-a-name'; // it is in the device document
const SECRET = 'the-secret-of-this-guest';
const MIB = 4;

/** A lab with one guest whose disk is empty. */
class EavesdroppedLab {
  readonly cleanup = new Cleanup();
  lab!: Outrigger;
  guest!: TestGuest;

  async open(integrity: Integrity): Promise<void> {
    this.cleanup.onSignals();
    this.lab = await Outrigger.open({ mtu: 9000, cleanup: this.cleanup, integrity });
    await this.lab.startBoth();
  }

  async boot(): Promise<void> {
    const { lab } = this;
    await lab.cli('iohv', 'volume', 'create', VOLUME, '--size', '256M');
    await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', VOLUME);
    this.guest = await lab.bootGuest(VM);
  }

  /** What is heard on the way to either side while the guest gets its disk, writes a secret and reads it. */
  async eavesdrop(): Promise<{ toIohv: Overheard; toHost: Overheard }> {
    const { lab, cleanup } = this;
    const tap = { segment: lab.segment, texts: [SECRET, VOLUME], dir: lab.dir, cleanup };
    const toIohv = await Wiretap.start({ ...tap, side: 'iohv' });
    const toHost = await Wiretap.start({ ...tap, side: 'host' });
    await this.boot();
    await this.guest.must(`yes ${SECRET} | head -c ${MIB << 20} >/tmp/secret`);
    await this.guest.must('dd if=/tmp/secret of=/dev/vda bs=64k oflag=direct 2>/dev/null');
    await this.guest.must(`dd if=/dev/vda bs=64k count=${MIB << 4} iflag=direct 2>/dev/null | cmp - /tmp/secret`);
    return { toIohv: await toIohv.stop(), toHost: await toHost.stop() };
  }
}

/** Packets that carry the secret one way at least: they are super-frames of up to 64 KiB where several frames wait. */
const DATA_FRAMES = (MIB << 20) / 65536;

describe('somebody who listens on the segment', () => {
  const world = new EavesdroppedLab();

  before(() => world.open('mac'));
  after(() => world.cleanup.run());

  test('reads in `mac` what the guest writes, what it reads, and the names of its volumes', async () => {
    const { toIohv, toHost } = await world.eavesdrop();
    assert.ok((toIohv.found[0] ?? 0) > DATA_FRAMES / 2, JSON.stringify(toIohv));
    assert.ok((toHost.found[0] ?? 0) > DATA_FRAMES / 2, JSON.stringify(toHost));
    assert.ok((toHost.found[1] ?? 0) > 0, JSON.stringify(toHost));
  });
});

describe('a guest whose frames are encrypted', () => {
  const world = new EavesdroppedLab();

  before(() => world.open('encrypt'));
  after(() => world.cleanup.run());

  test('is not overheard', async () => {
    for (const heard of Object.values(await world.eavesdrop())) {
      assert.ok(heard.frames > DATA_FRAMES && heard.dropped < heard.frames / 2, JSON.stringify(heard));
      assert.deepEqual(heard.found, [0, 0]);
    }
  });

  test('has no error and no mismatch when the engine of the I/O hypervisor is killed', async (t) => {
    const { lab, guest } = world;
    const load = await VerifiedLoad.start(guest);
    const victim = await lab.enginePid('iohv');
    process.kill(victim, 'SIGKILL');
    await waitFor({ what: 'a new engine', timeoutMs: 60_000 }, async () => {
      const engine = (await lab.tryStatus('iohv'))?.engine;
      return engine?.state === 'running' && engine.pid !== victim;
    });
    await lab.waitForSession();
    await load.waitForEndOfPass();
    const { passes, blackoutMs } = await load.stop();
    assert.equal(await load.kernelErrors(), '');
    t.diagnostic(`measured: encrypted, engine killed: blackout ${blackoutMs.toFixed(0)} ms, ${passes} passes`);
  });
});
