// The demonstration. A stock QEMU guest boots from a disk, and reaches a network, over our own Ethernet protocol:
//
//   namespace "host"                                        namespace "iohv"
//   QEMU ── vhost-user ── host agent ══ veth, MTU 9000 ══ I/O hypervisor ── volume (a Debian root file system)
//                                                                        └── tap ── bridge ── veth ── "outside"
//
// Everything is real: three namespaces with cables between them, the supervisors and engines as separate
// processes, the command line as a user types it, an unmodified QEMU and Debian. The guest writes, verifies,
// fetches a page and powers off; the volume's file system is checked afterwards. Everything is removed at the end.
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { findAccel } from '../test/lab/accel.js';
import { Cleanup } from '../test/lab/cleanup.js';
import { run } from '../test/lab/command.js';
import { LabError, messageOf } from '../test/lab/errors.js';
import { guestImage } from '../test/lab/images.js';
import { saveLogs } from '../test/lab/lab-dir.js';
import { HOST_NAME, Outrigger } from '../test/lab/outrigger.js';
import { BRIDGE, OUTSIDE, Outside } from '../test/lab/outside.js';
import { Qemu, qemuVersion } from '../test/lab/qemu.js';
import { within } from '../test/lab/wait.js';
import type { ExerciseResult } from './exercise.js';
import { GuestConsole } from './guest-console.js';
import { type DemoOptions, parseOptions } from './options.js';
import { Screen } from './screen.js';

const VM = 'demo';
const VOLUME = 'debian';
const NIC = 'lan';
const PAGE_BYTES = 1 << 20;
/** The default of a NIC. */
const NIC_MTU = 1500;
const BOOT_TIMEOUT_MS = 10 * 60_000;
const EXERCISE_TIMEOUT_MS = 15 * 60_000;
const POWER_OFF_TIMEOUT_MS = 3 * 60_000;

interface Summary {
  ok: boolean;
  error?: string;
  guest: ExerciseResult;
  bootSeconds: number;
  totalSeconds: number;
  accel: string;
  mtu: number;
  requests: number;
  /** Whether the guest got the page as it was served. */
  pageIsRight: boolean;
  /** Whether e2fsck found the volume's file system clean; null: not checked, the guest still runs. */
  fileSystemClean: boolean | null;
}

class Demo {
  readonly #options: DemoOptions;
  readonly #screen: Screen;
  readonly #cleanup: Cleanup;
  readonly summary: Summary;
  /** With --keep: what still runs when `run` has returned. */
  #running: { lab: Outrigger; qemu: Qemu } | undefined;
  readonly #page = randomBytes(PAGE_BYTES);

  constructor(options: DemoOptions, screen: Screen, cleanup: Cleanup) {
    this.#options = options;
    this.#screen = screen;
    this.#cleanup = cleanup;
    this.summary = {
      ok: false,
      guest: { verifiedBytes: 0, mismatches: 0, ioErrors: 0, address: '', page: '' },
      bootSeconds: 0,
      totalSeconds: 0,
      accel: '',
      mtu: options.mtu,
      requests: 0,
      pageIsRight: false,
      fileSystemClean: null,
    };
  }

  async run(): Promise<void> {
    const lab = await this.#layOut();
    try {
      await this.#startOutside(lab);
      await this.#startProcesses(lab);
      const disk = await this.#makeVolume(lab);
      const qemu = await this.#startGuest(lab);
      const console = await GuestConsole.open(qemu);
      await this.#boot(qemu, console);
      await this.#exercise(console);
      this.summary.requests = (await lab.iohvStatus()).hosts[0]?.requests ?? 0;
      if (this.#options.keep) {
        console.close();
        this.#running = { lab, qemu };
      } else {
        await this.#powerOff(lab, qemu);
        await this.#checkVolume(disk);
      }
    } catch (error) {
      const logs = mkdtempSync(`${tmpdir()}/outrigger-demo-`);
      saveLogs(lab.dir, logs);
      throw new LabError(`${messageOf(error)}\nlogs: ${logs}`);
    }
    const { guest } = this.summary;
    const diskIsRight = guest.verifiedBytes > 0 && guest.mismatches === 0 && guest.ioErrors === 0;
    this.summary.ok = diskIsRight && this.summary.pageIsRight;
  }

  #layOut(): Promise<Outrigger> {
    const { mtu } = this.#options;
    return this.#screen.step('Two network namespaces, one cable', async (step) => {
      const lab = await Outrigger.open({ mtu, cleanup: this.#cleanup });
      const { segment } = lab;
      step.detail(`${segment.namespace('iohv')}: the I/O hypervisor's machine, ${segment.mac('iohv')}`);
      step.detail(`${segment.namespace('host')}: the VM host, ${segment.mac('host')}; veth, MTU ${mtu}`);
      step.detail(`key and configuration files in ${lab.dir}`);
      return lab;
    });
  }

  #startOutside(lab: Outrigger): Promise<void> {
    return this.#screen.step('A network beyond the I/O hypervisor', async (step) => {
      const { segment, dir } = lab;
      const outside = Outside.open({ segment, dir, cleanup: this.#cleanup, bridged: true });
      await Promise.all([outside.startDhcp(NIC_MTU), outside.startHttp(this.#page)]);
      step.detail(`${segment.namespace('outside')}: ${OUTSIDE.ipv4}, a DHCP server and a web server`);
      step.detail(`its cable ends in the bridge ${BRIDGE} on the I/O hypervisor's machine`);
    });
  }

  #startProcesses(lab: Outrigger): Promise<void> {
    return this.#screen.step('I/O hypervisor and host agent', async (step) => {
      step.command(`outrigger iohv --config ${lab.configFile('iohv')}`);
      await lab.start('iohv');
      step.command(`outrigger host --config ${lab.configFile('host')}`);
      await lab.start('host');
      step.progress('waiting for their session');
      await lab.waitForSession();
      step.detail(`engines: ${await lab.enginePid('iohv')} and ${await lab.enginePid('host')}; the session is up`);
    });
  }

  #makeVolume(lab: Outrigger): Promise<string> {
    return this.#screen.step('A volume with a Debian root file system, and a NIC', async (step) => {
      step.progress('copying the image');
      const image = await guestImage('demo');
      const disk = `${lab.volumeDir}/${VOLUME}.raw`;
      // A copy: what the guest writes shall not change the cached image.
      await must(['cp', '--reflink=auto', '--sparse=always', `${image}/disk.raw`, disk]);
      step.command(`outrigger volume create ${VOLUME} --adopt ${disk}`);
      await lab.cli('iohv', 'volume', 'create', VOLUME, '--adopt', disk);
      step.command(`outrigger nic create ${NIC} --bridge ${BRIDGE}`);
      await lab.cli('iohv', 'nic', 'create', NIC, '--bridge', BRIDGE);
      step.command(`outrigger attach ${VM} --host ${HOST_NAME} --disk ${VOLUME} --nic ${NIC}`);
      await lab.cli('iohv', 'attach', VM, '--host', HOST_NAME, '--disk', VOLUME, '--nic', NIC);
      return disk;
    });
  }

  #startGuest(lab: Outrigger): Promise<Qemu> {
    return this.#screen.step('A stock QEMU on them', async (step) => {
      const version = qemuVersion();
      step.progress('looking whether KVM works here');
      const accel = await findAccel();
      this.summary.accel = accel;
      step.detail(`QEMU ${version}, ${accel === 'kvm' ? 'KVM' : 'software emulation (KVM does not run guests here)'}`);
      const flags = ['--memory', '512M', '--qemu-version', version];
      step.command(`outrigger vm args ${VM} ${flags.join(' ')}`);
      const { text, args } = await lab.vmArgs(VM, ...flags);
      step.detail(text);
      return Qemu.start({
        dir: lab.dir,
        name: VM,
        accel,
        // How the guest learns what is expected of it: as its machine's serial number.
        args: [...args, '-smbios', `type=1,serial=${this.#options.keep ? 'outrigger-demo-keep' : 'outrigger-demo'}`],
        wrap: (argv) => lab.segment.wrap('host', argv),
        cleanup: this.#cleanup,
      });
    });
  }

  #boot(qemu: Qemu, console: GuestConsole): Promise<void> {
    return this.#screen.step('The guest boots from the volume', async (step) => {
      const booted = await console.wait('booted', step, BOOT_TIMEOUT_MS);
      this.summary.bootSeconds = Math.round((performance.now() - qemu.startedAt) / 100) / 10;
      step.detail(`Linux ${booted.kernel}, root file system on the volume, up after ${this.summary.bootSeconds} s`);
    });
  }

  #exercise(console: GuestConsole): Promise<void> {
    return this.#screen.step('It writes, reads back, verifies, and fetches a page', async (step) => {
      const { result } = await console.wait('result', step, EXERCISE_TIMEOUT_MS);
      this.summary.guest = result;
      step.detail(
        `${formatMib(result.verifiedBytes)} verified, ${result.mismatches} mismatches, ${result.ioErrors} I/O errors`,
      );
      this.summary.pageIsRight = result.page === createHash('sha256').update(this.#page).digest('hex');
      step.detail(`${formatMib(PAGE_BYTES)} over HTTP as ${result.address}, ${this.#pageVerdict()}`);
    });
  }

  #pageVerdict(): string {
    return this.summary.pageIsRight ? 'as it was served' : 'not as it was served';
  }

  #powerOff(lab: Outrigger, qemu: Qemu): Promise<void> {
    return this.#screen.step('It powers off; disk and NIC are detached', async (step) => {
      step.progress('waiting for the guest to power off');
      await within({ what: 'the guest to power off', timeoutMs: POWER_OFF_TIMEOUT_MS }, qemu.process.ended);
      step.command(`outrigger detach ${VM}`);
      await lab.cli('iohv', 'detach', VM);
      step.command(`outrigger volume rm ${VOLUME}`);
      await lab.cli('iohv', 'volume', 'rm', VOLUME);
      step.command(`outrigger nic rm ${NIC}`);
      await lab.cli('iohv', 'nic', 'rm', NIC);
      step.progress('stopping the host agent and the I/O hypervisor');
      await lab.stop();
    });
  }

  #checkVolume(disk: string): Promise<void> {
    return this.#screen.step('The file system on the volume is checked', async (step) => {
      step.command(`e2fsck -fn ${disk}`);
      const { status, stdout, stderr } = await run(['e2fsck', '-fn', disk]);
      this.summary.fileSystemClean = status === 0;
      if (status !== 0) {
        throw new LabError(`e2fsck found errors:\n${stdout}${stderr}`);
      }
      step.detail('clean');
    });
  }

  /** With --keep: tells what there is to try, until the guest is powered off or a signal ends the demo. */
  async linger(): Promise<void> {
    if (this.#running === undefined) {
      return;
    }
    const { lab, qemu } = this.#running;
    const cli = (command: string, side: 'iohv' | 'host') => `bin/outrigger ${command} --socket ${lab.socket(side)}`;
    this.#screen.line(`
Everything is still running. Things to try from another terminal:
  ${cli('status', 'iohv')}
  ${cli('volume ls', 'iohv')}
  ${cli('nic ls', 'iohv')}
  ${cli('status', 'host')}
  socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:${qemu.consoleSocket}
      the guest's console: a root shell after Enter; leave it with Ctrl-]
  kill -9 ${await lab.enginePid('iohv')}
      kills the I/O hypervisor's engine: the guest only waits a moment
  ip -n ${lab.segment.namespace('iohv')} link set seg0 down
      pulls the cable; "up" plugs it in again
  ls ${lab.dir}
      configuration and logs
Power the guest off or press Ctrl-C to end the demo and remove everything.
`);
    await qemu.process.ended;
  }
}

async function must(argv: readonly [string, ...string[]]): Promise<void> {
  const { status, stderr } = await run(argv, 10 * 60_000);
  if (status !== 0) {
    throw new LabError(`${argv.join(' ')}: ${stderr.trim()}`);
  }
}

const formatMib = (bytes: number) => `${(bytes / 1048576).toFixed(0)} MiB`;

function report(screen: Screen, summary: Summary): void {
  const { ok, guest, fileSystemClean, accel, mtu } = summary;
  const row = (name: string, value: string) => screen.line(`  ${name.padEnd(20)}${value}`);
  screen.line();
  screen.line(ok ? screen.style('green', 'The demo succeeded.') : screen.style('red', 'The demo failed.'));
  row('guest', `booted in ${summary.bootSeconds} s (${accel}) from a volume behind ${mtu}-byte Ethernet frames`);
  row('verified', `${formatMib(guest.verifiedBytes)}, ${guest.mismatches} mismatches, ${guest.ioErrors} I/O errors`);
  row(
    'network',
    `${guest.address || 'no address'}; the page ${summary.pageIsRight ? 'arrived' : 'did not arrive'} whole`,
  );
  row('requests served', `${summary.requests}`);
  row('file system', fileSystemClean === null ? 'not checked' : fileSystemClean ? 'clean' : 'has errors');
  row('time', `${summary.totalSeconds} s`);
}

async function main(): Promise<number> {
  const options = parseOptions();
  const screen = new Screen();
  const cleanup = new Cleanup();
  cleanup.onSignals(() => screen.line('\nremoving everything that the demo made'));
  const demo = new Demo(options, screen, cleanup);
  const { summary } = demo;
  try {
    const startedAt = performance.now();
    try {
      await demo.run();
    } catch (error) {
      summary.error = messageOf(error);
      screen.line(`\n${screen.style('red', summary.error)}`);
    }
    summary.totalSeconds = Math.round((performance.now() - startedAt) / 100) / 10;
    report(screen, summary);
    if (options.json !== undefined) {
      writeFileSync(options.json, `${JSON.stringify(summary, null, 2)}\n`);
    }
    await demo.linger();
  } finally {
    cleanup.run();
  }
  return summary.ok ? 0 : 1;
}

process.exit(await main());
