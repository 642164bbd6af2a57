// `outrigger events` and `outrigger top`: what happened, and how much of it. Both ask again and again, so they
// work the same over the unix socket and over HTTPS.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Argv } from 'yargs';
import type { CacheView } from '../../api/cache-schemas.js';
import type { EventView, HostStatus, IohvStatus } from '../../api/schemas.js';
import { EVENTS_WAIT_S_MAX } from '../../config/rules.js';
import { OutriggerError, refuse } from '../../errors.js';
import type { Nested } from '../../telemetry/metrics.js';
import type { ApiClient } from '../client.js';
import { type CommandContext, clientFor, toJson, withTarget } from '../context.js';
import { renderEvent } from '../render.js';
import { computeTop, renderTop, type Sample, type TopView } from '../top.js';

export function eventsCommand(context: CommandContext, yargs: Argv): Argv {
  return yargs.command(
    'events',
    'What happened: the lines of the log, as far back as the supervisor remembers',
    (y) =>
      withTarget(y)
        .options({
          follow: { type: 'boolean', default: false, alias: 'f', describe: 'go on with what happens from now on' },
          after: { type: 'number', describe: 'only what is newer than this sequence number (`seq` of --json)' },
        })
        .example('$0 events --follow', 'until Ctrl-C')
        .example('$0 events --follow --json', 'one JSON object per line'),
    async (args) => {
      if (args.after !== undefined && !(Number.isSafeInteger(args.after) && args.after >= 0)) {
        throw refuse('usage', '--after is a sequence number, as `seq` of --json shows it', { command: 'events' });
      }
      const client = clientFor(args);
      let { after } = args;
      const fetch = (waitS: number) =>
        client.get<EventView[]>(after === undefined ? '/v1/events' : `/v1/events?after=${after}&wait_s=${waitS}`);
      if (args.json && !args.follow) {
        context.out(toJson(await fetch(0)));
        return;
      }
      const render = (event: EventView) => (args.json ? `${JSON.stringify(event)}\n` : renderEvent(event));
      for (let waitS = 0; ; waitS = EVENTS_WAIT_S_MAX) {
        const events = await fetch(waitS);
        after = events.at(-1)?.seq ?? after ?? 0;
        context.out(events.map(render).join(''));
        if (!args.follow) {
          return;
        }
      }
    },
  );
}

const CLEAR_SCREEN = '\x1b[H\x1b[J';

export function topCommand(context: CommandContext, yargs: Argv): Argv {
  return yargs.command(
    'top',
    'Rates per second: IOPS, MB/s, round trips, retransmits; by host, NIC and protection domain, and on a host by disk',
    (y) =>
      withTarget(y)
        .options({
          once: { type: 'boolean', default: false, describe: 'one table, then end' },
          interval: { type: 'number', default: 1, describe: 'seconds that a table covers' },
        })
        .example('$0 top', 'until Ctrl-C')
        .example('$0 top --once --interval 10', 'the average of ten seconds')
        .example('$0 top --socket /run/outrigger/host.sock', 'of the host agent: by disk and NIC'),
    async (args) => {
      if (!(args.interval >= 0.1 && args.interval <= 3600)) {
        throw refuse('usage', '--interval is a number of seconds, 0.1 to 3600', { command: 'top' });
      }
      const client = clientFor(args);
      const render = (view: TopView) => {
        if (args.json) {
          return `${JSON.stringify(view)}\n`;
        }
        return process.stdout.isTTY && !args.once ? `${CLEAR_SCREEN}${renderTop(view)}` : `${renderTop(view)}\n`;
      };
      let before = await takeSample(client);
      for (;;) {
        await sleep(args.interval * 1000);
        const now = await takeSample(client);
        context.out(render(computeTop(before, now)));
        if (args.once) {
          return;
        }
        before = now;
      }
    },
  );
}

async function takeSample(client: ApiClient): Promise<Sample> {
  const status = await client.get<IohvStatus | HostStatus>('/v1/status');
  const stats = await client.get<Nested>('/v1/stats').catch((error: unknown): Nested => {
    if (error instanceof OutriggerError && error.code === 'engine_unavailable') {
      return {};
    }
    throw error;
  });
  const cache = status.role === 'iohv' ? await client.get<CacheView>('/v1/cache') : null;
  return { atMs: performance.now(), status, stats, cache };
}
