// Runs one test program: its output goes to a log file, and to the terminal as well with --verbose.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { constants } from 'node:os';
import { repoRoot } from '../lab/paths.js';
import type { Options } from './group.js';

export interface Ran {
  status: number;
  output: string;
  seconds: number;
}

const running = new Set<ChildProcess>();
let ending = false;

/** A signal to this process alone ends the programs too, and waits until they have cleaned up. */
export function endOnSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, async () => {
      ending = true;
      const closed = [...running].map((child) => once(child, 'close'));
      for (const child of running) {
        child.kill('SIGINT');
      }
      await Promise.all(closed);
      process.exit(128 + constants.signals[signal]);
    });
  }
}

export async function runProgram(
  argv: readonly [string, ...string[]],
  logName: string,
  { logDir, verbose }: Options,
  env: Record<string, string> = {},
): Promise<Ran> {
  const startedAt = performance.now();
  const log = createWriteStream(`${logDir}/${logName}.log`);
  const [program, ...args] = argv;
  const child = spawn(program, args, {
    cwd: repoRoot,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  let output = '';
  const take = (text: string) => {
    output += text;
    log.write(text);
    if (verbose) {
      process.stdout.write(text);
    }
  };
  child.stdout.setEncoding('utf8').on('data', take);
  child.stderr.setEncoding('utf8').on('data', take);
  const status = await new Promise<number>((resolve) => {
    child.once('error', (error) => {
      take(`${error.message}\n`);
      resolve(127);
    });
    child.once('close', (code, signal) => {
      if (signal !== null) {
        take(`${program} ended with ${signal}\n`);
      }
      resolve(code ?? 128);
    });
  });
  running.delete(child);
  log.end();
  await once(log, 'close');
  if (ending) {
    await new Promise(() => {}); // nothing is made of half a result
  }
  return { status, output, seconds: (performance.now() - startedAt) / 1000 };
}
