// `outrigger protect domain drive`: cuts and commits on a clock.
import { once } from 'node:events';
import type { Argv } from 'yargs';
import type { DomainView } from '../../api/domain-schemas.js';
import { messageOf, type OutriggerError, refuse } from '../../errors.js';
import { EpochError } from '../../protect/epoch-client.js';
import { type DriverResult, EpochDriver } from '../../protect/epoch-driver.js';
import { type CommandContext, clientFor, segment, toJson, withTarget } from '../context.js';
import { parseTimeout } from '../format.js';

export function driveCommand(context: CommandContext, yargs: Argv): void {
  yargs.command(
    'drive <name>',
    'Cut and commit on a clock, without any checkpoints: for tests and measuring',
    (y) =>
      withTarget(y)
        .positional('name', { type: 'string', demandOption: true, describe: 'name of the domain' })
        .options({
          every: { type: 'string', default: '25ms', describe: 'length of an epoch' },
          count: { type: 'number', describe: 'so many epochs; default: until it is interrupted' },
        })
        .example('$0 protect domain drive ft1 --every 50ms', 'what its VMs write and send comes out 20 times a second')
        .epilogue(
          'On the I/O hypervisor itself. Nothing can resume from these epochs: no state of the VMs is saved. It goes on when the engine is replaced, and ends when a copy takes over.',
        ),
    async ({ name, every, count, ...args }) => {
      const everyMs = parseTimeout(every, '--every');
      if (everyMs < 1 || (count !== undefined && !(count >= 1))) {
        throw refuse('usage', '--every and --count must be at least 1', { command: 'protect domain drive' });
      }
      const { socket } = await clientFor(args).get<DomainView>(`/v1/domains/${segment(name)}`);
      const result = await drive(name, socket, everyMs, count);
      context.out(args.json ? toJson(result) : render(result));
    },
  );
}

/** Until it is done, or interrupted. */
async function drive(name: string, socket: string, everyMs: number, count: number | undefined): Promise<DriverResult> {
  try {
    const driver = await EpochDriver.start({ socket, everyMs, count });
    const interrupted = new AbortController();
    const { signal } = interrupted;
    for (const what of ['SIGINT', 'SIGTERM']) {
      once(process, what, { signal }).then(
        () => driver.stop(),
        () => {}, // it has ended by itself
      );
    }
    return await driver.ended.finally(() => interrupted.abort());
  } catch (error) {
    throw toRefusal(name, error);
  }
}

function toRefusal(name: string, error: unknown): OutriggerError {
  const code = error instanceof EpochError ? error.code : undefined;
  const known = code === 'stale' ? 'domain_stale' : code === 'closed' ? 'domain_not_open' : 'domain_refused';
  return refuse(known, messageOf(error), { domain: name });
}

function render({ epochs, skipped, unprotected, reconnects, mean_us, max_us }: DriverResult): string {
  const times = `a cut and its commit took ${mean_us.toFixed(0)} us on average, ${max_us.toFixed(0)} at most`;
  const gaps = unprotected === 0 ? '' : `; protection was dropped before ${unprotected} of the cuts`;
  const others = reconnects === 0 ? '' : `; connected again ${reconnects} times`;
  return `${epochs} epochs, ${skipped} left out; ${times}${gaps}${others}\n`;
}
