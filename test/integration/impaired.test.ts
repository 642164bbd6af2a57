// Verified I/O of a guest over a bad cable (test/tools/impair.c in the middle of the segment):
//
//   guest ── QEMU ── host agent ══ veth ══ impair ══ veth ══ I/O hypervisor ── ram
//
// A long run (bin/test --long) lets the peer be silent for minutes.
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { getJson } from '../lab/api.js';
import { Cleanup } from '../lab/cleanup.js';
import type { TestGuest } from '../lab/guest.js';
import { CLEAN, Impairment, type Impairments, type RelayCounters } from '../lab/impairment.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { isLongRun } from '../lab/run-length.js';
import { VerifiedLoad } from './verified-load.js';

const VM = 'vm1';
const SEED = 20260101;
const SILENCE_MS = isLongRun ? 180_000 : 6000;
const TIMEOUT_MS = 5 * 60_000;

/** The cable of the acceptance test. */
const BAD: Partial<Impairments> = { loss: 0.05, duplicate: 0.05, reorder: 0.05, corrupt: 0.001 };
const WORSE: Partial<Impairments> = { loss: 0.2, duplicate: 0.2, reorder: 0.3, corrupt: 0.05 };

/** What we read of fio's report. */
interface FioReport {
  jobs: { error: number; read: { bw: number; iops: number }; write: { bw: number; iops: number } }[];
}

interface ClientStats {
  client: { sessions: number; retransmits: number; framesLost: number; refused: { digest: number } };
}

const sum = (both: Record<string, RelayCounters>, name: keyof RelayCounters) =>
  Object.values(both).reduce((total, counters) => total + counters[name], 0);

describe('a guest whose disk is behind a bad cable', () => {
  const cleanup = new Cleanup();
  let lab: Outrigger;
  let cable: Impairment;
  let guest: TestGuest;

  before(async () => {
    cleanup.onSignals();
    lab = await Outrigger.open({ mtu: 9000, cleanup, relayed: true });
    cable = await Impairment.start({ segment: lab.segment, dir: lab.dir, seed: SEED, cleanup });
    await lab.startBoth();
    await lab.cli('iohv', 'volume', 'create', 'data', '--kind', 'ram', '--size', '256M');
    await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', 'data');
    guest = await lab.bootGuest(VM);
  });

  afterEach(() => cable.set(CLEAN));
  after(() => cleanup.run());

  async function clientStats(): Promise<ClientStats['client']> {
    const stats = await getJson<ClientStats>(lab.socket('host'), '/v1/stats');
    assert.ok(stats, 'the host agent answers');
    return stats.client;
  }

  /** Writes and verifies `mib`; fails on any mismatch or error. MB/s and requests per second. */
  async function fioVerify(mib: number): Promise<string> {
    const job = [
      `fio --name=verify --filename=/dev/vda --size=${mib}M --rw=randwrite --bssplit=4k/60:16k/20:128k/15:1M/5`,
      '--ioengine=libaio --direct=1 --iodepth=16 --verify=crc32c --do_verify=1 --verify_fatal=1 --eta=never',
      '--output-format=json --output=/tmp/verify.json',
    ];
    await guest.must('dmesg -c >/dev/null');
    const { status, output } = await guest.run(job.join(' '), TIMEOUT_MS);
    assert.equal(status, 0, output);
    assert.equal((await guest.run("dmesg | grep -iE 'I/O error|vda.*(error|timeout|reset)'")).output, '');
    const { jobs } = JSON.parse(await guest.must('sed -n "/^{/,\\$p" /tmp/verify.json')) as FioReport;
    const [result] = jobs;
    assert.ok(result && result.error === 0, output);
    const rate = ({ bw, iops }: { bw: number; iops: number }) => `${(bw / 1000).toFixed(1)} MB/s, ${iops.toFixed(0)}/s`;
    return `write ${rate(result.write)}; read ${rate(result.read)}`;
  }

  test('reads what it wrote, with 5 % loss, 5 % duplication, reordering and 0.1 % corruption', async (t) => {
    t.diagnostic(`measured: fio --verify over the same relay, unimpaired: ${await fioVerify(64)}`);
    const [before, stats] = [await cable.counters(), await clientStats()];
    await cable.set(BAD);
    t.diagnostic(`measured: fio --verify over the bad cable: ${await fioVerify(64)}`);
    const [now, after] = [await cable.counters(), await clientStats()];
    const did = (name: keyof RelayCounters) => sum(now, name) - sum(before, name);
    const frames = did('frames');
    for (const name of ['lost', 'duplicated', 'reordered'] as const) {
      assert.ok(did(name) > frames * 0.03, `the cable ${name} only ${did(name)} of ${frames} frames`);
    }
    assert.ok(did('corrupted') > 0, 'the cable corrupted no frame');
    t.diagnostic(
      `measured: of ${frames} frames ${did('lost')} lost, ${did('duplicated')} doubled, ${did('reordered')} held ` +
        `back, ${did('corrupted')} damaged, ${did('overflow')} overflowed; the host sent ` +
        `${after.retransmits - stats.retransmits} again and began ${after.sessions - stats.sessions} sessions anew`,
    );
  });

  test('reads what it wrote over a cable that is four times worse', async (t) => {
    await cable.set(WORSE);
    t.diagnostic(`measured: fio --verify over a cable four times worse: ${await fioVerify(8)}`);
  });

  test('reads what it wrote over a long way: 5 ms and 2 % loss', async (t) => {
    await cable.set({ delay_us: 5000, loss: 0.02 });
    t.diagnostic(`measured: fio --verify with 5 ms each way and 2 % loss: ${await fioVerify(8)}`);
  });

  test(`waits for a peer that is silent for ${SILENCE_MS / 1000} s`, async (t) => {
    const load = await VerifiedLoad.start(guest);
    await cable.set({ loss: 1 });
    await sleep(SILENCE_MS);
    await cable.set({ loss: 0 });
    await lab.waitForSession();
    await load.waitForEndOfPass();
    const { passes, blackoutMs } = await load.stop();
    assert.equal(await load.kernelErrors(), '');
    assert.ok(blackoutMs > SILENCE_MS * 0.8, `the guest was without its disk for only ${blackoutMs} ms`);
    t.diagnostic(`measured: silent for ${SILENCE_MS} ms: blackout ${blackoutMs.toFixed(0)} ms, ${passes} passes`);
  });

  test('waits for a peer that is heard but does not hear', async () => {
    const load = await VerifiedLoad.start(guest);
    await cable.set({ loss: 1 }, 'to-iohv');
    await sleep(SILENCE_MS / 2);
    await cable.set({ loss: 0 });
    await load.waitForEndOfPass();
    const { blackoutMs } = await load.stop();
    assert.equal(await load.kernelErrors(), '');
    assert.ok(blackoutMs > (SILENCE_MS / 2) * 0.8, `the guest was without its disk for only ${blackoutMs} ms`);
  });

  test('fails requests after the time that its volume allows, and serves again when the peer is back', async () => {
    const read = (disk: string) => guest.run(`dd if=/dev/${disk} of=/dev/null bs=4k count=1 iflag=direct`, TIMEOUT_MS);
    await lab.cli('iohv', 'volume', 'set', 'data', '--io-timeout', '1500ms');
    await sleep(2000); // the host hears of it after some milliseconds
    await guest.must('dmesg -c >/dev/null');
    await cable.set({ loss: 1 });
    const refused = await read('vda');
    assert.notEqual(refused.status, 0, 'the peer is silent, and the time is limited');
    assert.match(await guest.must('dmesg'), /I\/O error, dev vda/);
    await cable.set({ loss: 0 });
    await lab.waitForSession();
    assert.equal((await read('vda')).status, 0);
    await lab.cli('iohv', 'volume', 'set', 'data', '--io-timeout', 'none');
  });
});
