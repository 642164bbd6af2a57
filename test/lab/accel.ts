// Which accelerator guests can use here. /dev/kvm may open although guests hardly get anywhere under it (in a nested
// machine), so the firmware runs under both at once, until it has ended its search for something to boot: real KVM is
// done first, or soon after the emulation; one that is not there by then is no help.
import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

export type Accel = 'kvm' | 'tcg';

/** KVM may take so many times as long as the emulation: they begin at the same time, on a machine that may be loaded. */
const SLACK = 4;
const PROBE_TIMEOUT_MS = 30_000;

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
  const start = performance.now();
  const over = new AbortController();
  const limit = AbortSignal.any([over.signal, AbortSignal.timeout(PROBE_TIMEOUT_MS)]);
  const kvm = firmwareRuns('kvm', limit);
  await firmwareRuns('tcg', limit);
  const elapsedMs = performance.now() - start;
  const runs = await Promise.race([kvm, sleep(elapsedMs * (SLACK - 1), false)]);
  over.abort();
  return runs ? 'kvm' : 'tcg';
}

/** Whether the firmware has come to its end before `limit` ends it. */
function firmwareRuns(accel: Accel, limit: AbortSignal): Promise<boolean> {
  const log = ['-chardev', 'stdio,id=log', '-device', 'isa-debugcon,iobase=0x402,chardev=log'];
  return new Promise((resolve) => {
    const qemu = spawn('qemu-system-x86_64', ['-accel', accel, '-nodefaults', '-display', 'none', ...log], {
      stdio: ['ignore', 'pipe', 'ignore'],
      signal: limit,
      killSignal: 'SIGKILL',
    });
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
    qemu.once('close', () => resolve(works));
  });
}
