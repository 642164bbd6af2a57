// `outrigger volume snapshot create|ls|rm|rollback`.
import type { Argv } from 'yargs';
import type { VolumeView } from '../../api/schemas.js';
import type { SnapshotRequest, SnapshotView } from '../../api/snapshot-schemas.js';
import { refuse } from '../../errors.js';
import { type CommandContext, clientFor, segment, toJson, withTarget } from '../context.js';
import { formatPairs, formatSize, formatTable } from '../format.js';
import { renderVolume } from '../render.js';

/** `disk1@before` as the two names; the second is missing when it says a volume only. */
export function parseSnapshot(text: string): { volume: string; snapshot: string | undefined } {
  const [volume = '', snapshot, more] = text.split('@');
  if (more !== undefined || snapshot === '') {
    throw refuse('usage', `${text} is neither VOLUME nor VOLUME@SNAPSHOT`, { command: 'volume' });
  }
  return { volume, snapshot };
}

export function snapshotCommand(context: CommandContext) {
  const withNames = (y: Argv) =>
    withTarget(y)
      .positional('volume', { type: 'string', demandOption: true })
      .positional('snapshot', { type: 'string', demandOption: true, describe: 'its name' });
  const pathOf = (volume: string) => `/v1/volumes/${segment(volume)}/snapshots`;

  return (yargs: Argv) =>
    yargs
      .command(
        'create <volume> <snapshot>',
        'Keep what a volume holds now under a name, also while guests use it',
        (y) =>
          withNames(y).example(
            '$0 volume snapshot create disk1 before-upgrade',
            'as if the guest lost power at this moment: what it had flushed is there',
          ),
        async (args) => {
          const body: SnapshotRequest = { name: args.snapshot };
          const view = await clientFor(args).callSlowly<SnapshotView>('POST', pathOf(args.volume), body);
          context.out(args.json ? toJson(view) : renderSnapshot(view));
        },
      )
      .command(
        'ls <volume>',
        'List the snapshots of a volume',
        (y) => withTarget(y).positional('volume', { type: 'string', demandOption: true }),
        async (args) => {
          const views = await clientFor(args).get<SnapshotView[]>(pathOf(args.volume));
          context.out(args.json ? toJson(views) : renderSnapshots(args.volume, views));
        },
      )
      .command(
        'rm <volume> <snapshot>',
        'Remove a snapshot; refused while clones of it are there',
        (y) => withNames(y),
        async (args) => {
          await clientFor(args).call('DELETE', `${pathOf(args.volume)}/${segment(args.snapshot)}`);
          const name = `${args.volume}@${args.snapshot}`;
          context.out(args.json ? toJson({ removed: name }) : `removed ${name}\n`);
        },
      )
      .command(
        'rollback <volume> <snapshot>',
        'Let a detached volume hold again what it held then; what was written since is lost',
        (y) =>
          withNames(y).example(
            '$0 volume snapshot rollback disk1 before-upgrade',
            'other snapshots stay, also later ones',
          ),
        async (args) => {
          const path = `${pathOf(args.volume)}/${segment(args.snapshot)}/rollback`;
          const volume = await clientFor(args).call<VolumeView>('POST', path);
          context.out(args.json ? toJson(volume) : renderVolume(volume));
        },
      )
      .demandCommand(1, 'which of: create, ls, rm, rollback?');
}

function renderSnapshot({ volume, name, created_at, size, stored, state, clones }: SnapshotView): string {
  return formatPairs([
    ['name', `${volume}@${name}`],
    ['taken', state === 'pending' ? `${created_at} (pending)` : created_at],
    ['size', `${formatSize(size)}, of which ${formatSize(stored)} in its own file`],
    ['clones', clones.join(', ') || '-'],
  ]);
}

function renderSnapshots(volume: string, views: readonly SnapshotView[]): string {
  if (views.length === 0) {
    return `no snapshots; take one with: outrigger volume snapshot create ${volume} NAME\n`;
  }
  const rows = views.map(({ name, created_at, size, stored, state, clones }) => [
    name,
    created_at,
    formatSize(size),
    formatSize(stored),
    state,
    clones.join(', ') || '-',
  ]);
  return formatTable(['NAME', 'TAKEN', 'SIZE', 'STORED', 'STATE', 'CLONES'], rows);
}
