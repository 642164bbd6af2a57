// Short commands: run to their end, output collected.
import { execFileSync, spawn } from 'node:child_process';
import { LabError } from './errors.js';

export type Argv = readonly [string, ...string[]];

export interface Outcome {
  /** 128 + n after signal n is not told apart from an exit status: a shell's view is enough here. */
  status: number;
  stdout: string;
  stderr: string;
}

/** Runs a command and returns its output; throws with what it said when it fails. */
export function runSync(argv: Argv): string {
  const [program, ...args] = argv;
  try {
    return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    const { code, stderr } = error as { code?: unknown; stderr?: string };
    const reason = code === 'ENOENT' ? `${program} is not installed` : stderr?.trim() || String(error);
    throw new LabError(`${argv.join(' ')}: ${reason}`);
  }
}

/** Runs a command to its end, whatever its exit status. It is killed after `timeoutMs`. */
export function run(argv: Argv, timeoutMs = 60_000): Promise<Outcome> {
  const [program, ...args] = argv;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new LabError(`${argv.join(' ')}: still running after ${timeoutMs / 1000} s`));
    }, timeoutMs);
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.once('error', (error) => {
      clearTimeout(timer);
      reject(new LabError(`${argv.join(' ')}: ${error.message}`));
    });
    child.once('close', (code) => {
      clearTimeout(timer);
      resolve({ status: code ?? 128, stdout, stderr });
    });
  });
}
