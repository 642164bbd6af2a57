// A campaign: two guests' disks under verified I/O while everything around them dies and comes back.
//
//   test guest (fio --verify, QEMU) ── vhost-user ──┐                                   ┌── file
//                                                   ├── host ══ veth ══ I/O hypervisor ─┤
//   verify_client (plays QEMU and guest) ───────────┘                                   └── file on recorder_fs
//
// The events come one after the other, each when I/O flows again after the one before. The client's disk lies
// on a file system that keeps a journal of what is executed, and holds some writes back, so that an engine
// that is killed leaves writes behind which land after its death. Afterwards exactly-once.ts goes through
// this journal and the client's.
import { setTimeout as sleep } from 'node:timers/promises';
import { VerifiedLoad } from '../integration/verified-load.js';
import { findAccel } from '../lab/accel.js';
import type { Cleanup } from '../lab/cleanup.js';
import { LabError, messageOf } from '../lab/errors.js';
import { TestGuest } from '../lab/guest.js';
import { HOST_NAME, Outrigger } from '../lab/outrigger.js';
import { type ClientWindow, VerifyClient } from './client.js';
import { judge, type Verdict } from './exactly-once.js';
import { clientRecords, writeRecords } from './journals.js';
import { KINDS, type Kind, type Outage, schedule } from './kinds.js';
import { Random } from './random.js';
import { Recorder } from './recorder.js';
import { byKind, type CampaignResult, type EventOutcome, spreadOf } from './result.js';

export interface CampaignOptions {
  events: number;
  seed: number;
  /** Names or beginnings of names; empty: all. */
  only: readonly string[];
  delayShare: number;
  delayMs: number;
  cleanup: Cleanup;
  print(line: string): void;
}

const MTU = 9000;
const GUEST_VM = 'guest';
const CLIENT_VM = 'client';
const VOLUME_BYTES = 64 << 20;
const SETTLE_TIMEOUT_MS = 60_000;
const PAUSE_MS = [20, 300] as const;
/** Events between two looks at the guest. */
const GUEST_CHECK = 10;

export async function runCampaign(options: CampaignOptions): Promise<CampaignResult> {
  const campaign = await Campaign.start(options);
  return campaign.run();
}

class Campaign {
  readonly #options: CampaignOptions;
  readonly #random: Random;
  readonly #lab: Outrigger;
  readonly #recorder: Recorder;
  readonly #guest: TestGuest;
  readonly #load: VerifiedLoad;
  readonly #client: VerifyClient;
  readonly #problems: string[];
  readonly #outcomes: EventOutcome[] = [];
  #ioErrors = 0;
  #mismatches = 0;

  private constructor(
    options: CampaignOptions,
    lab: Outrigger,
    recorder: Recorder,
    guest: TestGuest,
    load: VerifiedLoad,
    client: VerifyClient,
    problems: string[],
  ) {
    this.#options = options;
    this.#random = new Random(options.seed);
    this.#lab = lab;
    this.#recorder = recorder;
    this.#guest = guest;
    this.#load = load;
    this.#client = client;
    this.#problems = problems;
  }

  static async start(options: CampaignOptions): Promise<Campaign> {
    const { cleanup, seed, delayMs, delayShare, print } = options;
    print('starting both sides, a guest and the verifying client');
    // Without a cache, so that what is read is what the storage has.
    const lab = await Outrigger.open({ mtu: MTU, cleanup, cacheSize: '0' });
    const { dir } = lab;
    const recorder = await Recorder.start({ dir, size: VOLUME_BYTES, delayShare, delayMs, seed, cleanup });
    await lab.startBoth();
    await lab.cli('iohv', 'volume', 'create', 'plain', '--size', '256M');
    await lab.cli('iohv', 'volume', 'create', 'recorded', '--adopt', recorder.file);
    await lab.cli('iohv', 'attach', GUEST_VM, '--host', HOST_NAME, '--disk', 'plain');
    await lab.cli('iohv', 'attach', CLIENT_VM, '--host', HOST_NAME, '--disk', 'recorded');
    const { args } = await lab.vmArgs(GUEST_VM, '--memory', '512M');
    const wrap = (argv: readonly [string, ...string[]]) => lab.segment.wrap('host', argv);
    const guest = await TestGuest.boot({ dir, name: GUEST_VM, accel: await findAccel(), args, wrap, cleanup });
    const problems: string[] = [];
    const client = await VerifyClient.start(
      { lab, socket: await socketOf(lab, CLIENT_VM), journal: `${dir}/client.journal`, seed, cleanup },
      (line) => {
        problems.push(line);
        print(line);
      },
    );
    const load = await VerifiedLoad.start(guest);
    return new Campaign(options, lab, recorder, guest, load, client, problems);
  }

  async run(): Promise<CampaignResult> {
    const { events, print } = this.#options;
    const startedAt = performance.now();
    const { possible, skipped } = await this.#choose();
    await this.#client.window(); // what the start was like is not of interest
    try {
      for (const kind of schedule(possible, events, this.#random)) {
        await this.#event(kind);
        if (this.#outcomes.length % GUEST_CHECK === 0) {
          await this.#load.passes(); // throws when one has failed
        }
        if (this.#problems.length > 0) {
          print('something is wrong: no more events');
          break;
        }
      }
    } catch (error) {
      this.#fail(messageOf(error));
    }
    const guest = await this.#endGuest();
    const client = await this.#endClient();
    const verdict = await this.#endStorage();
    return {
      seed: this.#options.seed,
      events: this.#outcomes.length,
      seconds: (performance.now() - startedAt) / 1000,
      ioErrors: this.#ioErrors,
      mismatches: this.#mismatches + (verdict?.strays ?? 0),
      duplicates: verdict?.duplicates ?? 0,
      unexecuted: verdict?.unexecuted ?? 0,
      blackoutMs: spreadOf(this.#outcomes.map(({ blackoutMs }) => blackoutMs)),
      kinds: byKind(this.#outcomes),
      skipped,
      client: {
        requests: client?.completed ?? 0,
        acknowledged: verdict?.acknowledged ?? 0,
        executed: verdict?.executed ?? 0,
        repeated: verdict?.repeated ?? 0,
      },
      guest,
      problems: this.#problems,
    };
  }

  async #choose(): Promise<{ possible: Kind[]; skipped: string[] }> {
    const { only, print } = this.#options;
    const wanted = KINDS.filter(({ name }) => only.length === 0 || only.some((start) => name.startsWith(start)));
    const possible: Kind[] = [];
    const skipped: string[] = [];
    for (const kind of wanted) {
      if (await kind.isPossible(this.#lab)) {
        possible.push(kind);
      } else {
        skipped.push(kind.name);
        print(`skipped, because this build cannot do it: ${kind.name}`);
      }
    }
    return { possible, skipped };
  }

  async #event(kind: Kind): Promise<void> {
    const { events, print } = this.#options;
    const number = `${this.#outcomes.length + 1}`.padStart(`${events}`.length);
    const outages = await kind.inject(this.#lab, this.#random);
    await this.#client.settle(SETTLE_TIMEOUT_MS);
    await sleep(this.#random.between(...PAUSE_MS));
    const window = await this.#client.window();
    const blackoutMs = blackoutOf(window, outages);
    this.#outcomes.push({ kind: kind.name, blackoutMs, reconnects: window.reconnects });
    const notes = window.reconnects > 0 ? `  (${window.reconnects} reconnects)` : '';
    print(`[${number}/${events}] ${kind.name.padEnd(22)} ${blackoutMs.toFixed(0).padStart(6)} ms${notes}`);
  }

  async #endGuest(): Promise<CampaignResult['guest']> {
    try {
      const result = await this.#load.stop();
      const complaints = await this.#load.kernelErrors();
      if (complaints !== '') {
        this.#ioErrors += complaints.split('\n').length;
        this.#fail(`the guest's kernel: ${complaints}`);
      }
      return result;
    } catch (error) {
      this.#ioErrors++;
      this.#fail(`in the guest: ${messageOf(error)}`);
      return { passes: 0, blackoutMs: 0 };
    }
  }

  async #endClient(): Promise<ClientWindow | undefined> {
    try {
      const totals = await this.#client.stop();
      this.#ioErrors += totals.errors;
      this.#mismatches += totals.mismatches;
      return totals;
    } catch (error) {
      this.#fail(messageOf(error));
      return undefined;
    }
  }

  /** Everything that could still write is stopped first; then the journals are complete. */
  async #endStorage(): Promise<Verdict | undefined> {
    try {
      await this.#guest.qemu.quit();
      await this.#lab.stop();
      await this.#recorder.stop();
      const verdict = judge(clientRecords(`${this.#lab.dir}/client.journal`), writeRecords(this.#recorder.journal));
      for (const example of verdict.examples) {
        this.#fail(example);
      }
      return verdict;
    } catch (error) {
      this.#fail(messageOf(error));
      return undefined;
    }
  }

  #fail(problem: string): void {
    this.#problems.push(problem);
    this.#options.print(problem);
  }
}

async function socketOf(lab: Outrigger, vm: string): Promise<string> {
  await lab.vmArgs(vm); // waits for the disk
  const disk = (await lab.hostStatus()).vms.find(({ name }) => name === vm)?.disks[0];
  if (disk === undefined) {
    throw new LabError(`${vm} has no disk on the host`);
  }
  return disk.socket;
}

/** The client's longest time without an answer, less the part of it during which the cable was out. */
export function blackoutOf({ gap_ns, gap_begin_ns }: ClientWindow, outages: readonly Outage[]): number {
  const [begin, end] = [gap_begin_ns, gap_begin_ns + gap_ns];
  const out = outages.map(({ fromNs, toNs }) => Math.min(end, Number(toNs)) - Math.max(begin, Number(fromNs)));
  return (gap_ns - out.reduce((sum, ns) => sum + Math.max(ns, 0), 0)) / 1e6;
}
