// What a result was measured on: without it a figure says little.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism, release, totalmem } from 'node:os';
import { repoRoot } from '../../test/lab/paths.js';

export interface Machine {
  cpu: string;
  cpus: number;
  memory_gib: number;
  kernel: string;
  system: string;
  /** Of the programs that take part. */
  versions: Record<string, string>;
}

export function describeMachine(): Machine {
  return {
    cpu: match('/proc/cpuinfo', /^model name\s*: (.*)$/m),
    cpus: availableParallelism(),
    memory_gib: Math.round(totalmem() / 1024 ** 3),
    kernel: release(),
    system: match('/etc/os-release', /^PRETTY_NAME="(.*)"$/m),
    versions: {
      outrigger: `${packageVersion()} ${revision()}`.trim(),
      node: process.version,
      'qemu-storage-daemon': version('qemu-storage-daemon', '--version'),
      'qemu-nbd': version('qemu-nbd', '--version'),
      nbdkit: version('nbdkit', '--version'),
      libnbd: version('pkg-config', '--modversion', 'libnbd'),
      liburing: version('pkg-config', '--modversion', 'liburing'),
    },
  };
}

function match(file: string, pattern: RegExp): string {
  try {
    return pattern.exec(readFileSync(file, 'utf8'))?.[1]?.trim() ?? 'unknown';
  } catch {
    return 'unknown';
  }
}

function output(program: string, ...args: string[]): string | undefined {
  try {
    return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'], cwd: repoRoot }).trim();
  } catch {
    return undefined;
  }
}

/** "qemu-nbd 7.2.22 (Debian ...)" -> "7.2.22 (Debian ...)" */
function version(program: string, ...args: string[]): string {
  const line = output(program, ...args)?.split('\n')[0];
  return line?.replace(/^\D*(?=\d)/, '') ?? 'not installed';
}

function packageVersion(): string {
  return (JSON.parse(readFileSync(`${repoRoot}/package.json`, 'utf8')) as { version: string }).version;
}

/** Of the sources; empty outside of a checkout. */
function revision(): string {
  const commit = output('git', 'rev-parse', '--short=12', 'HEAD');
  if (commit === undefined) {
    return '';
  }
  return output('git', 'status', '--porcelain', '--untracked-files=no') === '' ? commit : `${commit}, changed`;
}
