// A QEMU of the lab. The first serial port is the console (a socket, and a log file), the second one the test
// guest's command channel; the monitor is QMP. Disks and everything else are the caller's arguments.

import type { Accel } from './accel.js';
import type { Cleanup } from './cleanup.js';
import { type Argv, runSync } from './command.js';
import { LabProcess } from './process.js';
import { Qmp } from './qmp.js';
import { connectTo, onLines } from './socket.js';

/** QEMU 7.2 without KVM crashes when a vhost-user NIC uses MSI-X. */
function withoutMsix(args: readonly string[]): string[] {
  return ['-global', 'virtio-net-pci.vectors=0', ...args.map((arg) => arg.replace(/,vectors=\d+/, ''))];
}

export interface QemuOptions {
  /** Directory for sockets and logs; its path is short, a socket's may have 107 bytes. */
  dir: string;
  name: string;
  accel: Accel;
  /** Left out: the arguments say it, as those of `outrigger vm args` do. */
  memoryMib?: number;
  args: readonly string[];
  /** Puts the command where it shall run, such as in a network namespace. */
  wrap?: (argv: Argv) => Argv;
  program?: string;
  cleanup: Cleanup;
}

export class Qemu {
  readonly process: LabProcess;
  /** By performance.now(). */
  readonly startedAt: number;
  readonly qmp: Qmp;
  readonly consoleSocket: string;
  readonly consoleLog: string;
  readonly commandSocket: string;

  private constructor(options: QemuOptions, startedAt: number, started: LabProcess, qmp: Qmp) {
    this.startedAt = startedAt;
    this.process = started;
    this.qmp = qmp;
    ({
      consoleSocket: this.consoleSocket,
      consoleLog: this.consoleLog,
      commandSocket: this.commandSocket,
    } = filesOf(options));
  }

  static async start(options: QemuOptions): Promise<Qemu> {
    const { name, dir, cleanup, wrap = (argv: Argv) => argv } = options;
    const argv = wrap(qemuArgv(options));
    const startedAt = performance.now();
    const started = new LabProcess({ name, argv, logFile: `${dir}/${name}.log`, cleanup });
    try {
      return new Qemu(options, startedAt, started, await Qmp.open(filesOf(options).qmpSocket, () => started.isRunning));
    } catch (error) {
      started.kill();
      await started.ended;
      throw new Error(`${name} did not start: ${argv.join(' ')}\n${started.tail()}`, { cause: error });
    }
  }

  /** The console's lines from now on. */
  async onConsole(listener: (line: string) => void): Promise<() => void> {
    const socket = await connectTo(this.consoleSocket, 'the console', () => this.process.isRunning);
    onLines(socket, listener);
    return () => socket.destroy();
  }

  /** The power button of last resort. */
  async quit(): Promise<void> {
    await this.qmp.execute('quit').catch(() => {}); // it may be gone before it has answered
    await this.process.stop();
  }
}

function filesOf({ dir, name }: QemuOptions) {
  return {
    qmpSocket: `${dir}/${name}.qmp`,
    consoleSocket: `${dir}/${name}.console`,
    consoleLog: `${dir}/${name}.console.log`,
    commandSocket: `${dir}/${name}.command`,
  };
}

function qemuArgv(options: QemuOptions): Argv {
  const { accel, memoryMib, args, program = 'qemu-system-x86_64', name } = options;
  const files = filesOf(options);
  const socket = (path: string) => `path=${path},server=on,wait=off`;
  return [
    program,
    ...['-accel', accel, ...(accel === 'kvm' ? ['-cpu', 'host'] : [])],
    ...(memoryMib === undefined ? [] : ['-m', `${memoryMib}`]),
    ...['-name', name, '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-qmp', `unix:${socket(files.qmpSocket).slice('path='.length)}`],
    ...['-chardev', `socket,id=console,${socket(files.consoleSocket)},logfile=${files.consoleLog}`],
    ...['-serial', 'chardev:console'],
    ...['-chardev', `socket,id=command,${socket(files.commandSocket)}`, '-serial', 'chardev:command'],
    ...(accel === 'kvm' ? args : withoutMsix(args)),
  ];
}

/** The QEMU's version, such as 7.2.22. */
export function qemuVersion(program = 'qemu-system-x86_64'): string {
  return /version (\S+)/.exec(runSync([program, '--version']))?.[1] ?? 'unknown';
}
