// Two cables between the host and the I/O hypervisor. The guest's verified I/O goes on whichever of them is cut,
// when an interface is deleted and made again, and when the MTU changes under it; with AF_PACKET and with AF_XDP.
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { getJson } from '../lab/api.js';
import { Cleanup } from '../lab/cleanup.js';
import { runSync } from '../lab/command.js';
import type { TestGuest } from '../lab/guest.js';
import { type Cable, SECOND_INTERFACE, SEGMENT_INTERFACE, type Side } from '../lab/netns.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { waitFor } from '../lab/wait.js';
import { VerifiedLoad } from './verified-load.js';

const VM = 'vm1';
const OUTAGE_MS = 3000;
const LINK_TIMEOUT_MS = 60_000;
const PORT_MODES = ['packet', 'xdp'] as const;

for (const mode of PORT_MODES) {
  describe(`two cables, port.mode: ${mode}`, () => {
    const cleanup = new Cleanup();
    let lab: Outrigger;
    let guest: TestGuest;

    before(async () => {
      cleanup.onSignals();
      lab = await Outrigger.open({ mtu: 9000, secondCable: true, portMode: { host: mode, iohv: mode }, cleanup });
      await lab.startBoth();
      await lab.cli('iohv', 'volume', 'create', 'data', '--kind', 'ram', '--size', '256M');
      await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', 'data');
      guest = await lab.bootGuest(VM);
    });

    afterEach(async () => {
      lab.segment.setLink('up', SEGMENT_INTERFACE);
      lab.segment.setLink('up', SECOND_INTERFACE);
      await linksAre(true, true);
      await waitFor({ what: `port.mode ${mode}`, timeoutMs: LINK_TIMEOUT_MS }, async () => {
        const ports = [(await lab.hostStatus()).port, (await lab.iohvStatus()).port];
        return mode === 'packet' || ports.every(({ xdp }) => xdp?.queues === 2);
      });
    });

    after(() => cleanup.run());

    /** Waits until both ends see the links so. */
    async function linksAre(...want: boolean[]): Promise<void> {
      await waitFor({ what: `the links to be ${want.map(String)}`, timeoutMs: LINK_TIMEOUT_MS }, async () => {
        const [host, iohv] = [await lab.hostStatus(), await lab.iohvStatus()];
        const seen = [host.session.links, iohv.hosts.find(({ name }) => name === HOST_NAME)?.links ?? []];
        return seen.every((links) => links.map(({ up }) => up).join() === want.join());
      });
    }

    /** Verified I/O while things happen to the network, one in each pass or later; the guest must not notice. */
    async function underLoad(what: string, ...events: (() => Promise<void>)[]): Promise<void> {
      const load = await VerifiedLoad.start(guest);
      for (const happen of events) {
        await happen();
        await load.waitForEndOfPass();
      }
      const { passes, blackoutMs } = await load.stop();
      console.log(`${what}: blackout ${blackoutMs.toFixed(0)} ms, ${passes} passes`);
      assert.equal(await load.kernelErrors(), '');
    }

    async function cutForAWhile(cable: Cable, ...rest: boolean[]): Promise<void> {
      lab.segment.setLink('down', cable);
      await linksAre(...rest);
      await sleep(OUTAGE_MS);
      lab.segment.setLink('up', cable);
      await linksAre(true, true);
    }

    async function changeMtu(side: Side, mtu: number, ofSession: number): Promise<void> {
      lab.segment.setMtu(side, mtu, SEGMENT_INTERFACE);
      await waitFor({ what: `a session of MTU ${ofSession}`, timeoutMs: LINK_TIMEOUT_MS }, async () => {
        const { hosts } = await lab.iohvStatus();
        return hosts.find(({ name }) => name === HOST_NAME)?.mtu === ofSession;
      });
    }

    /** By the I/O hypervisor. */
    function sentBytes(cable: Cable): number {
      const text = runSync(lab.segment.wrap('iohv', ['ip', '-j', '-s', 'link', 'show', cable]));
      const [link] = JSON.parse(text) as { stats64: { tx: { bytes: number } } }[];
      return link?.stats64.tx.bytes ?? 0;
    }

    /** How often the host's client has connected. */
    async function sessions(): Promise<number> {
      const stats = await getJson<{ client: { sessions: number } }>(lab.socket('host'), '/v1/stats');
      return stats?.client.sessions ?? 0;
    }

    test('both links come up, are shown and are used', async () => {
      await linksAre(true, true);
      await underLoad('nothing happens', async () => {});
      assert.match(await lab.cli('host', 'status'), /^session +up; link 0 \d+ us, link 1 \d+ us$/m);
      for (const cable of [SEGMENT_INTERFACE, SECOND_INTERFACE] as const) {
        assert.ok(sentBytes(cable) > 100_000, `${cable} has carried ${sentBytes(cable)} bytes`);
      }
    });

    test('either cable may be cut: the session and the guest go on', async () => {
      const before = await sessions();
      await underLoad(
        `either cut for ${OUTAGE_MS / 1000} s`,
        () => cutForAWhile(SEGMENT_INTERFACE, false, true),
        () => cutForAWhile(SECOND_INTERFACE, true, false),
      );
      assert.equal(await sessions(), before);
    });

    test('a port whose interface is deleted waits for another one of that name', async () => {
      const before = await sessions();
      await underLoad('an interface deleted and made again', async () => {
        lab.segment.removeSecond();
        await linksAre(true, false);
        lab.segment.addSecond();
        await linksAre(true, true);
      });
      assert.equal(await sessions(), before);
    });

    test('both cables cut: the I/O waits', async () => {
      await underLoad(`both cut for ${OUTAGE_MS / 1000} s`, async () => {
        lab.segment.setLink('down', SEGMENT_INTERFACE);
        lab.segment.setLink('down', SECOND_INTERFACE);
        await sleep(OUTAGE_MS);
        lab.segment.setLink('up', SEGMENT_INTERFACE);
        lab.segment.setLink('up', SECOND_INTERFACE);
        await linksAre(true, true);
      });
    });

    test('the session follows an MTU that changes on either side', async () => {
      const largest = mode === 'packet' ? 8960 : 9000; // super-frames leave less of it
      await underLoad(
        'the MTU changes four times',
        () => changeMtu('host', 1500, 1500),
        () => changeMtu('host', 9000, largest),
        () => changeMtu('iohv', 1500, 1500),
        () => changeMtu('iohv', 9000, largest),
      );
    });
  });
}
