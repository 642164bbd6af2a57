// `ledger` in a test guest (guest/test/ledger.c) and who sees of it from outside: what was seen must be on the disk,
// whatever dies.
import { fileURLToPath } from 'node:url';
import { runSync } from '../lab/command.js';
import { LabError } from '../lab/errors.js';
import type { TestGuest } from '../lab/guest.js';
import type { Outside } from '../lab/outside.js';
import { repoRoot } from '../lab/paths.js';
import type { LabProcess } from '../lab/process.js';
import { waitFor } from '../lab/wait.js';

const CLIENT = fileURLToPath(new URL('ledger-client.js', import.meta.url));
const PORT = 7001;
const STORM_PORT = 7002;
const REPLY_TIMEOUT_MS = 120_000;

/** Asks the guest to write numbers, and notes of which it had a reply. */
export class LedgerClient {
  readonly seen = new Set<number>();
  /** What else it printed: there should be nothing. */
  readonly complaints: string[] = [];
  readonly #process: LabProcess;

  private constructor(started: LabProcess) {
    this.#process = started;
    started.onLine((line) => {
      const number = /^seen (\d+)$/.exec(line)?.[1];
      if (number === undefined) {
        this.complaints.push(line);
      } else {
        this.seen.add(Number(number));
      }
    });
  }

  /** The guest serves its disk; `first`: the first number that is asked for. */
  static async start(outside: Outside, guest: TestGuest, address: string, disk: string, first = 0) {
    await guest.must(`ledger serve ${disk} ${PORT} >/tmp/ledger.log 2>&1 </dev/null &`);
    const argv = [process.execPath, CLIENT, 'ask', address, `${PORT}`, `${first}`] as const;
    return new LedgerClient(await outside.start(`ledger-${first}`, undefined, [...argv]));
  }

  /** Resolves when so many more replies have come. */
  async waitForReplies(count = 1): Promise<void> {
    const target = this.seen.size + count;
    const what = `${count} replies of the guest`;
    await waitFor({ what, timeoutMs: REPLY_TIMEOUT_MS }, () => {
      if (!this.#process.isRunning) {
        throw new LabError(`the client of the ledger ended: ${this.#process.tail()}`);
      }
      return this.seen.size >= target;
    });
  }

  /** What it has seen up to now is all in `seen` then. */
  async stop(): Promise<void> {
    await this.#process.stop();
  }
}

/** Numbers of which a reply was seen, and which the disk does not hold. */
export async function missingNumbers(guest: TestGuest, disk: string, seen: ReadonlySet<number>): Promise<number[]> {
  const ranges = (await guest.must(`ledger ranges ${disk}`))
    .split('\n')
    .filter(Boolean)
    .map((line) => line.split('-').map(Number));
  const isHeld = (number: number) => ranges.some(([first = 0, last = 0]) => first <= number && number <= last);
  return [...seen].filter((number) => !isHeld(number));
}

/** A storm of writes in the guest, each told to the outside after it ended. */
export class Storm {
  readonly #process: LabProcess;
  readonly #guest: TestGuest;
  #heard = 0;

  private constructor(started: LabProcess, guest: TestGuest) {
    this.#process = started;
    this.#guest = guest;
    started.onLine((line) => {
      this.#heard = Number(/^heard (\d+)$/.exec(line)?.[1] ?? this.#heard);
    });
  }

  static async start(outside: Outside, guest: TestGuest, to: string, disk: string): Promise<Storm> {
    const argv = [process.execPath, CLIENT, 'hear', `${STORM_PORT}`] as const;
    const listener = await outside.start('storm', /^hearing$/, [...argv]);
    await guest.must(`ledger storm ${disk} ${to} ${STORM_PORT} >/tmp/storm.log 2>&1 </dev/null &`);
    return new Storm(listener, guest);
  }

  /** The last write that the outside has heard of. */
  get heard(): number {
    return this.#heard;
  }

  async waitForWrites(count: number): Promise<void> {
    const target = this.#heard + count;
    const what = `word of ${count} writes`;
    await waitFor({ what, timeoutMs: REPLY_TIMEOUT_MS }, () => this.#process.isRunning && this.#heard >= target);
  }

  /** Writes that failed in the guest. */
  async errors(): Promise<number> {
    return Number(await this.#guest.must('grep -c "^write" /tmp/storm.log || true'));
  }
}

/** Checks that the disk holds exactly what a storm had written up to one of its writes, and says which. */
export async function replayStorm(guest: TestGuest, disk: string): Promise<number> {
  return parseReplay(await guest.must(`ledger replay ${disk}`));
}

/** The same of a file that a volume was. */
export function replayFile(path: string): number {
  return parseReplay(runSync([`${repoRoot}/build-rel/tools/ledger`, 'replay', path]));
}

function parseReplay(output: string): number {
  const last = /^last (\d+) wrong 0$/m.exec(output)?.[1];
  if (last === undefined) {
    throw new LabError(`no state of a storm: ${output}`);
  }
  return Number(last);
}
