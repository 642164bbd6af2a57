// Verified I/O in a test guest, pass after pass until it is told to stop: each pass writes blocks of several
// sizes all over a region of the disk and reads every one back against its checksum. Beside it a probe writes
// one small block after the other elsewhere on the disk, without a pause: its slowest write is how long the
// guest was without its disk, whatever the passes were doing just then.

import { LabError } from '../lab/errors.js';
import type { TestGuest } from '../lab/guest.js';
import { waitFor } from '../lab/wait.js';

const PASS_TIMEOUT_MS = 5 * 60_000;

const PROBE = [
  'fio --name=probe --filename=/dev/vda --offset=128M --size=64k --rw=write --bs=4k --direct=1 --ioengine=psync',
  '--thinktime=5ms --time_based --runtime=1d --eta=never --output-format=json --output=/tmp/load/probe.json',
].join(' ');

/** What a pass writes is small: the guest is emulated, and many tests wait for the end of one. */
const FIO = [
  'fio --name=verify --filename=/dev/vda --size=2M --rw=randwrite --bssplit=4k/70:32k/20:256k/10',
  '--ioengine=libaio --direct=1 --iodepth=16 --verify=crc32c --do_verify=1 --verify_fatal=1',
  '--eta=never --output-format=json',
].join(' ');

// /tmp/load/probe.pid: to interrupt it, which makes it report. /tmp/load/pass: how many passes have ended well; /tmp/load/failed: the output of the one that did not.
const SCRIPT = `
rm -rf /tmp/load; mkdir /tmp/load; echo 0 >/tmp/load/pass; dmesg -c >/dev/null
${PROBE} </dev/null >/tmp/load/probe.errors 2>&1 &
echo $! >/tmp/load/probe.pid
(
    n=0
    while [ ! -e /tmp/load/stop ]; do
        if ! ${FIO} --output=/tmp/load/$n.json --randseed=$n 2>/tmp/load/errors; then
            cat /tmp/load/errors /tmp/load/$n.json >/tmp/load/failed
            exit
        fi
        n=$((n + 1))
        echo $n >/tmp/load/pass.new; mv /tmp/load/pass.new /tmp/load/pass
    done
    touch /tmp/load/stopped
) </dev/null >/dev/null 2>&1 &
`;

export interface LoadResult {
  passes: number;
  /** The slowest write of the probe: what the guest noticed of an outage. */
  blackoutMs: number;
}

/** The part of fio's report that we read. */
interface ProbeReport {
  jobs: { error: number; write: { total_ios: number; clat_ns: { max: number } } }[];
}

export class VerifiedLoad {
  readonly #guest: TestGuest;

  private constructor(guest: TestGuest) {
    this.#guest = guest;
  }

  /** Resolves when the load is running: a first pass has ended. */
  static async start(guest: TestGuest): Promise<VerifiedLoad> {
    await guest.must(SCRIPT);
    const load = new VerifiedLoad(guest);
    await load.waitForPass(1);
    return load;
  }

  async passes(): Promise<number> {
    const { output } = await this.#guest.run('cat /tmp/load/failed 2>/dev/null; cat /tmp/load/pass');
    if (!/^\d+$/.test(output)) {
      throw new LabError(`the verified I/O failed: ${output}`);
    }
    return Number(output);
  }

  /** Resolves when the pass that is under way has ended. */
  async waitForEndOfPass(): Promise<void> {
    await this.waitForPass((await this.passes()) + 1);
  }

  /** Ends the load after its present pass. */
  async stop(): Promise<LoadResult> {
    await this.#guest.must('touch /tmp/load/stop');
    await waitFor({ what: 'the verified I/O to stop', timeoutMs: PASS_TIMEOUT_MS, intervalMs: 500 }, async () => {
      await this.passes();
      return (await this.#guest.run('test -e /tmp/load/stopped')).status === 0;
    });
    const passes = await this.passes();
    await this.#guest.must('kill -INT $(cat /tmp/load/probe.pid)');
    await waitFor({ what: 'the probe to end', timeoutMs: PASS_TIMEOUT_MS, intervalMs: 500 }, async () => {
      return (await this.#guest.run('kill -0 $(cat /tmp/load/probe.pid)')).status !== 0;
    });
    const { jobs } = JSON.parse(await this.#guest.must('sed -n "/^{/,\\$p" /tmp/load/probe.json')) as ProbeReport;
    const [probe] = jobs;
    if (probe === undefined || probe.error !== 0 || probe.write.total_ios === 0) {
      throw new LabError(`the probe failed: ${JSON.stringify(probe)}`);
    }
    return { passes, blackoutMs: probe.write.clat_ns.max / 1e6 };
  }

  /** Complaints of the guest's kernel about the disk since the start. */
  async kernelErrors(): Promise<string> {
    return (await this.#guest.run("dmesg | grep -iE 'I/O error|vda.*(error|timeout|reset)'")).output;
  }

  private waitForPass(number: number): Promise<unknown> {
    const what = `pass ${number} of the verified I/O`;
    return waitFor({ what, timeoutMs: PASS_TIMEOUT_MS, intervalMs: 500 }, async () => (await this.passes()) >= number);
  }
}
