// Which accelerator guests can use here. /dev/kvm may open although no ordinary guest gets far under it (in a
// nested machine), so the only proof is to let the firmware run: it ends its search for something to boot.
import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';

export type Accel = 'kvm' | 'tcg';

const PROBE_TIMEOUT_MS = 4000;

let known: Promise<Accel> | undefined;

/** OUTRIGGER_ACCEL=kvm|tcg decides without a probe. */
export function findAccel(): Promise<Accel> {
  known ??= probe();
  return known;
}

async function probe(): Promise<Accel> {
  const chosen = process.env.OUTRIGGER_ACCEL;
  if (chosen === 'kvm' || chosen === 'tcg') {
    return chosen;
  }
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return 'tcg';
  }
  return (await firmwareRuns()) ? 'kvm' : 'tcg';
}

function firmwareRuns(): Promise<boolean> {
  const log = ['-chardev', 'stdio,id=log', '-device', 'isa-debugcon,iobase=0x402,chardev=log'];
  return new Promise((resolve) => {
    const qemu = spawn('qemu-system-x86_64', ['-accel', 'kvm', '-nodefaults', '-display', 'none', ...log], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const timer = setTimeout(() => qemu.kill('SIGKILL'), PROBE_TIMEOUT_MS);
    let text = '';
    let works = false;
    qemu.stdout.setEncoding('utf8').on('data', (data: string) => {
      text += data;
      if (text.includes('Booting from')) {
        works = true;
        qemu.kill('SIGKILL');
      }
    });
    qemu.once('error', () => resolve(false));
    qemu.once('close', () => {
      clearTimeout(timer);
      resolve(works);
    });
  });
}
