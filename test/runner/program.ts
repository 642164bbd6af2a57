// Runs one test program: its output goes to a log file, and to the terminal as well with --verbose.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { repoRoot } from '../lab/paths.js';
import type { Options } from './group.js';

export interface Ran {
  status: number;
  output: string;
  seconds: number;
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
  log.end();
  await once(log, 'close');
  return { status, output, seconds: (performance.now() - startedAt) / 1000 };
}
