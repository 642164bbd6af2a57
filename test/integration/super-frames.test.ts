// A guest's disk over a link whose MTU is 9000: frames travel several at once, whole over a link that takes them so, and
// cut by the kernel over one that does not; and by themselves where one side is configured so. Both sides say which.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { getJson } from '../lab/api.js';
import { Cleanup } from '../lab/cleanup.js';
import { runSync } from '../lab/command.js';
import type { TestGuest } from '../lab/guest.js';
import { SEGMENT_INTERFACE, type Side } from '../lab/netns.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { waitFor } from '../lab/wait.js';
import { VerifiedLoad } from './verified-load.js';

const VM = 'vm1';
const TIMEOUT_MS = 60_000;
/** Of the datagrams a pass sends: it writes 2 MiB, and none carries more than 64 KiB. */
const SENT_MIN = 16;
/** Datagrams received for each one sent: whole, hardly more than one; cut, as many as it had frames, which are two or more. */
const CUT_MIN = 1.5;

interface PortCounters {
  txEnvelopes: number;
  rxEnvelopes: number;
  rxMalformed: number;
}

describe('a link whose MTU is 9000', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let guest: TestGuest;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup });
    await lab.startBoth();
    await lab.cli('iohv', 'volume', 'create', 'data', '--size', '256M');
    await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', 'data');
    guest = await lab.bootGuest(VM);
  });

  after(() => cleanup.run());

  async function counters(side: Side): Promise<PortCounters> {
    const stats = await getJson<{ port: PortCounters }>(lab.socket(side), '/v1/stats');
    assert.ok(stats);
    return stats.port;
  }

  /** Waits until both ends say so. */
  async function framesAre(want: 'plain' | 'super'): Promise<void> {
    await waitFor({ what: `frames to be ${want}`, timeoutMs: TIMEOUT_MS }, async () => {
      const [host, iohv] = [await lab.hostStatus(), await lab.iohvStatus()];
      const seen = [host.session.links, iohv.hosts.find(({ name }) => name === HOST_NAME)?.links ?? []];
      return seen.every((links) => links.length > 0 && links.every(({ frames }) => frames === want));
    });
  }

  /** Verified I/O, and how many envelopes the host sent and the I/O hypervisor received meanwhile. */
  async function load(): Promise<{ sent: number; received: number }> {
    const [sentBefore, receivedBefore] = [await counters('host'), await counters('iohv')];
    const running = await VerifiedLoad.start(guest);
    await running.waitForEndOfPass();
    await running.stop();
    assert.equal(await running.kernelErrors(), '');
    const [sentAfter, receivedAfter] = [await counters('host'), await counters('iohv')];
    assert.equal(receivedAfter.rxMalformed + sentAfter.rxMalformed, 0);
    return {
      sent: sentAfter.txEnvelopes - sentBefore.txEnvelopes,
      received: receivedAfter.rxEnvelopes - receivedBefore.rxEnvelopes,
    };
  }

  function setOffload(state: 'on' | 'off'): void {
    for (const side of ['host', 'iohv'] as const) {
      runSync(lab.segment.wrap(side, ['ethtool', '-K', SEGMENT_INTERFACE, 'tx-udp-segmentation', state]));
    }
  }

  test('carries several frames at once', async () => {
    await framesAre('super');
    const { sent, received } = await load();
    assert.ok(sent >= SENT_MIN, String(sent));
    assert.ok(received < CUT_MIN * sent, `${received} of ${sent}`);
    assert.match(await lab.cli('host', 'status'), /frames +super: the peer has acknowledged super-frames/);
    const host = (await lab.iohvStatus()).hosts.find(({ name }) => name === HOST_NAME);
    assert.deepEqual([host?.mtu, host?.links[0]?.frames], [8960, 'super']);
  });

  test('carries them cut where the interface does not take them whole', async () => {
    setOffload('off');
    const { sent, received } = await load();
    setOffload('on');
    assert.ok(sent >= SENT_MIN, String(sent));
    assert.ok(received > CUT_MIN * sent, `${received} of ${sent}`);
    await framesAre('super');
  });

  test('goes on with them when the engine of the I/O hypervisor is killed', async () => {
    const victim = await lab.enginePid('iohv');
    const running = await VerifiedLoad.start(guest);
    process.kill(victim, 'SIGKILL');
    await waitFor({ what: 'a new engine', timeoutMs: TIMEOUT_MS }, async () => {
      const engine = (await lab.tryStatus('iohv'))?.engine;
      return engine?.state === 'running' && engine.pid !== victim;
    });
    await lab.waitForSession();
    await running.waitForEndOfPass();
    await running.stop();
    assert.equal(await running.kernelErrors(), '');
    await framesAre('super');
  });

  test('whose MTU changes under it carries plain frames or several at once, as fits', async () => {
    const running = await VerifiedLoad.start(guest);
    const steps = [
      [1500, 'plain'],
      [4000, 'super'],
      [9000, 'super'],
    ] as const;
    for (const [mtu, frames] of steps) {
      lab.segment.setMtu('host', mtu, SEGMENT_INTERFACE);
      lab.segment.setMtu('iohv', mtu, SEGMENT_INTERFACE);
      await framesAre(frames);
    }
    await running.waitForEndOfPass();
    await running.stop();
    assert.equal(await running.kernelErrors(), '');
  });
});
