// A QEMU that is told to stop, reset, unplug or quit does so, though the I/O hypervisor cannot be heard: every
// vhost-user message is answered within a second, and the requests of the guest wait, or are cancelled by a
// reset. What the guest wrote is right afterwards. The promise is one second; the limit here is a generous one,
// for machines with other work.
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Cleanup } from '../lab/cleanup.js';
import type { TestGuest } from '../lab/guest.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { waitFor, within } from '../lab/wait.js';
import { VerifiedLoad } from './verified-load.js';

const VM = 'vm1';
const LIMIT_MS = 5000;
/** Until the guest has sent requests that nobody answers. */
const SETTLE_MS = 500;
/** Far beyond any delay of ours: a write that comes later would have been seen. */
const LATE_MS = 6000;

describe('QEMU obeys while nobody answers its disk', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let guest: TestGuest;
  /** The second disk's arguments, as `vm args` prints them: what a monitor's chardev-add and device_add take. */
  let extra: { chardev: string; device: string; id: string };
  let boots = 0;
  let frozen: number | undefined;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup });
    cleanup.add(thaw); // a frozen engine would not end
    await lab.startBoth();
    for (const volume of ['data', 'extra']) {
      await lab.cli('iohv', 'volume', 'create', volume, '--kind', 'ram', '--size', '256M');
    }
    await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', 'data', '--disk', 'extra');
    await bootGuest();
  });

  // A test that failed in the middle leaves no outage to the next.
  afterEach(() => {
    thaw();
    lab.segment.setLink('up');
  });

  after(() => cleanup.run());

  async function bootGuest(): Promise<void> {
    const withoutExtra = (args: string[]) => {
      const isExtra = (i: number) => /outrigger-extra/.test(args[i] ?? '');
      const [chardev = '', device = ''] = args.filter((_, i) => isExtra(i));
      extra = { chardev, device, id: 'outrigger-extra' };
      return args.filter((_, i) => !isExtra(i) && !isExtra(i + 1));
    };
    guest = await lab.bootGuest(VM, { name: `${VM}-${++boots}`, args: withoutExtra });
    await guest.qemu.qmp.execute('set-action', { reboot: 'reset' });
    await guest.must('head -c 64k /dev/zero | tr "\\0" A >/tmp/A; head -c 64k /dev/zero | tr "\\0" B >/tmp/B');
  }

  function thaw(): void {
    if (frozen !== undefined) {
      process.kill(frozen, 'SIGCONT');
      frozen = undefined;
    }
  }

  const outages = [
    {
      name: 'with the cable out',
      begin: async () => lab.segment.setLink('down'),
      end: async () => lab.segment.setLink('up'),
    },
    {
      name: 'with the engine of the I/O hypervisor frozen',
      begin: async () => {
        frozen = await lab.enginePid('iohv');
        process.kill(frozen, 'SIGSTOP');
      },
      end: async () => thaw(),
    },
  ];

  /** Runs a command of the monitor within the limit; milliseconds. */
  async function timed(command: string, args: Record<string, unknown> = {}): Promise<number> {
    const startedAt = performance.now();
    await within({ what: `QEMU to obey ${command}`, timeoutMs: LIMIT_MS }, guest.qemu.qmp.execute(command, args));
    return performance.now() - startedAt;
  }

  async function monitor(line: string): Promise<void> {
    const answer = await guest.qemu.qmp.execute('human-monitor-command', { 'command-line': line });
    assert.equal(answer, '', line);
  }

  /** 16 writes of 64 KiB that are not waited for. */
  const startWrites = (disk: string, content: 'A' | 'B') =>
    guest.must(
      `for i in $(seq 0 15); do dd if=/tmp/${content} of=/dev/${disk} bs=64k seek=$i oflag=direct & done >/dev/null 2>&1`,
    );

  const contentIs = async (disk: string, content: 'A' | 'B') => {
    const sum = 'sha256sum | cut -d" " -f1';
    const [want, ...have] = await guest
      .must(
        `cat /tmp/${content} | ${sum}; for i in $(seq 0 15); do ` +
          `dd if=/dev/${disk} bs=64k skip=$i count=1 iflag=direct 2>/dev/null | ${sum}; done`,
      )
      .then((text) => text.split('\n'));
    assert.equal(have.length, 16);
    assert.deepEqual(have, Array(16).fill(want));
  };

  async function plugExtra(): Promise<void> {
    await monitor(`chardev-add ${extra.chardev}`);
    await monitor(`device_add ${extra.device}`);
    await waitFor({ what: 'the guest to find its new disk', timeoutMs: 60_000 }, async () => {
      return (await guest.run('test -b /dev/vdb')).status === 0;
    });
  }

  function unplugged(): Promise<unknown> {
    return new Promise((resolve) => {
      guest.qemu.qmp.events.on('DEVICE_DELETED', (data: { device?: string }) => {
        if (data.device === extra.id) {
          resolve(data);
        }
      });
    });
  }

  test("the host's engine dies while QEMU is stopped with the cable out: the requests go on after cont", async () => {
    const load = await VerifiedLoad.start(guest);
    lab.segment.setLink('down');
    await sleep(SETTLE_MS);
    await timed('stop');
    const victim = await lab.enginePid('host');
    process.kill(victim, 'SIGKILL');
    await waitFor({ what: "the host's next engine", timeoutMs: 60_000 }, async () => {
      const engine = (await lab.tryStatus('host'))?.engine;
      return engine?.state === 'running' && engine.pid !== victim;
    });
    lab.segment.setLink('up');
    await lab.waitForSession();
    await timed('cont');
    await load.waitForEndOfPass();
    await load.stop();
    assert.equal(await load.kernelErrors(), '');
  });

  for (const outage of outages) {
    test(`stop and cont ${outage.name}: the requests go on afterwards`, async (t) => {
      const load = await VerifiedLoad.start(guest);
      await outage.begin();
      await sleep(SETTLE_MS);
      const times = [await timed('stop'), await timed('cont')];
      await outage.end(); // while the guest runs
      await load.waitForEndOfPass();
      await outage.begin();
      await sleep(SETTLE_MS);
      times.push(await timed('stop'));
      await outage.end(); // while it is stopped
      await lab.waitForSession();
      times.push(await timed('cont'));
      await load.waitForEndOfPass();
      await load.stop();
      assert.equal(await load.kernelErrors(), '');
      t.diagnostic(`measured: ${outage.name}: stop, cont, stop, cont took ${times.map(Math.round).join(', ')} ms`);
    });

    test(`system_reset ${outage.name}: no write from before it lands on one from after it`, async (t) => {
      await outage.begin();
      await startWrites('vda', 'A');
      await sleep(SETTLE_MS);
      const resetMs = await timed('system_reset');
      const booted = guest.waitForBoot();
      await timed('query-status'); // the main loop, which does the reset, is back
      await outage.end();
      await booted;
      await guest.must('head -c 64k /dev/zero | tr "\\0" A >/tmp/A; head -c 64k /dev/zero | tr "\\0" B >/tmp/B');
      await guest.must('for i in $(seq 0 15); do dd if=/tmp/B of=/dev/vda bs=64k seek=$i oflag=direct; done');
      await contentIs('vda', 'B');
      await sleep(LATE_MS);
      await contentIs('vda', 'B');
      t.diagnostic(`measured: ${outage.name}: system_reset took ${Math.round(resetMs)} ms`);
    });

    test(`device_del ${outage.name}: an idle disk goes, a busy one when its writes have ended`, async (t) => {
      await plugExtra();
      await outage.begin();
      let gone = unplugged();
      const startedAt = performance.now();
      const times = [await timed('device_del', { id: extra.id })];
      await within({ what: 'the idle disk to go', timeoutMs: 30_000 }, gone);
      const goneMs = performance.now() - startedAt;
      await outage.end();
      await lab.waitForSession();
      await monitor(`chardev-remove ${extra.id}-socket`);

      await plugExtra();
      await guest.must('for i in $(seq 0 15); do dd if=/tmp/A of=/dev/vdb bs=64k seek=$i oflag=direct; done');
      await outage.begin();
      await startWrites('vdb', 'B');
      await sleep(SETTLE_MS);
      gone = unplugged();
      times.push(await timed('device_del', { id: extra.id }));
      await timed('query-status');
      await sleep(SETTLE_MS);
      await outage.end();
      await within({ what: 'the busy disk to go', timeoutMs: 60_000 }, gone);
      await monitor(`chardev-remove ${extra.id}-socket`);

      await plugExtra();
      await contentIs('vdb', 'B');
      gone = unplugged();
      await timed('device_del', { id: extra.id });
      await within({ what: 'the disk to go', timeoutMs: 30_000 }, gone);
      await monitor(`chardev-remove ${extra.id}-socket`);
      t.diagnostic(
        `measured: ${outage.name}: device_del took ${times.map(Math.round).join(', ')} ms; ` +
          `an idle disk was gone after ${Math.round(goneMs)} ms`,
      );
    });

    test(`quit ${outage.name}: QEMU ends, and the next one finds what was written`, async (t) => {
      await guest.must('for i in $(seq 0 15); do dd if=/tmp/A of=/dev/vda bs=64k seek=$i oflag=direct; done');
      await outage.begin();
      await guest.must('dd if=/tmp/B of=/dev/vda bs=64k seek=1000 oflag=direct >/dev/null 2>&1 &');
      await sleep(SETTLE_MS);
      const startedAt = performance.now();
      await guest.qemu.qmp.execute('quit').catch(() => {}); // it may be gone before it has answered
      await within({ what: 'QEMU to end', timeoutMs: LIMIT_MS }, guest.qemu.process.ended);
      const quitMs = performance.now() - startedAt;
      await outage.end();
      await lab.waitForSession();
      await bootGuest();
      await contentIs('vda', 'A');
      t.diagnostic(`measured: ${outage.name}: QEMU ended ${Math.round(quitMs)} ms after quit`);
    });
  }
});
