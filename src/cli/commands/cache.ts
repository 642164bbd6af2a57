// `outrigger cache show|set|drop`.
import type { Argv } from 'yargs';
import type { CacheChange, CacheView, GivenUpView } from '../../api/cache-schemas.js';
import { refuse } from '../../errors.js';
import { type CommandContext, clientFor, segment, toJson, withTarget } from '../context.js';
import { formatSize, parseSize } from '../format.js';
import { renderCache } from '../render-cache.js';

function toChange(size: string | undefined): CacheChange {
  if (size === undefined) {
    throw refuse('usage', 'there is nothing to set: --size is missing', { command: 'cache set' });
  }
  return { size_bytes: size === 'default' ? null : parseSize(size, '--size') };
}

export function cacheCommand(context: CommandContext) {
  return (yargs: Argv): Argv =>
    yargs
      .command(
        'show',
        'Show the block cache: how large, how full, how useful, and for which volumes',
        (y) => withTarget(y).example('$0 top', 'shows rates'),
        async (args) => {
          const cache = await clientFor(args).get<CacheView>('/v1/cache');
          context.out(args.json ? toJson(cache) : renderCache(cache));
        },
      )
      .command(
        'set',
        'Give the cache another size, also while guests use it; it stays so until it is set again',
        (y) =>
          withTarget(y)
            .option('size', {
              type: 'string',
              describe: 'memory of all workers together: 512M, 4G; default: what the configuration says',
            })
            .example('$0 cache set --size 4G', 'grows at once, shrinks as blocks come free'),
        async (args) => {
          const cache = await clientFor(args).call<CacheView>('PATCH', '/v1/cache', toChange(args.size));
          context.out(args.json ? toJson(cache) : renderCache(cache));
        },
      )
      .command(
        'drop [volume]',
        'Forget what the cache holds; what is not written out yet stays until it is',
        (y) =>
          withTarget(y)
            .positional('volume', { type: 'string', describe: 'of this volume only; default: of all' })
            .option('kept', {
              type: 'boolean',
              default: false,
              describe: 'instead, give up acknowledged writes that killed engines left and that keep volumes closed',
            })
            .example('$0 cache drop disk1', 'before a measurement, or when its file was changed from outside'),
        async ({ volume, kept, ...args }) => {
          if (kept && volume !== undefined) {
            throw refuse('usage', '--kept is about all volumes that cannot be opened', { command: 'cache drop' });
          }
          if (kept) {
            const given = await clientFor(args).call<GivenUpView>('POST', '/v1/cache/give-up');
            context.out(args.json ? toJson(given) : `gave up ${formatSize(given.bytes)}, and what cannot be read\n`);
            return;
          }
          const path = volume === undefined ? '/v1/cache/drop' : `/v1/volumes/${segment(volume)}/cache/drop`;
          const answer = await clientFor(args).call<unknown>('POST', path);
          context.out(args.json ? toJson(answer) : `dropped what it held of ${volume ?? 'all volumes'}\n`);
        },
      )
      .demandCommand(1, 'which of: show, set, drop?');
}
