// `outrigger volume create|set|move|ls|show|rm|export|import|digest`; `snapshot` is in snapshot.ts.
import type { Argv } from 'yargs';
import type {
  DigestView,
  ImportView,
  MoveRequest,
  VolumeChange,
  VolumeRequest,
  VolumeView,
} from '../../api/schemas.js';
import { refuse } from '../../errors.js';
import { CACHE_OPTIONS, type CacheArgs, parseVolumeCache } from '../cache-options.js';
import { type CommandContext, clientFor, segment, toJson, withTarget } from '../context.js';
import { parseSize, parseTimeout } from '../format.js';
import { DISK_RATE_OPTIONS, type DiskRateArgs, parseDiskRate } from '../rates.js';
import { renderTransfer, renderVolume, renderVolumes } from '../render.js';
import { parseSnapshot, snapshotCommand } from './snapshot.js';

interface CreateArgs extends DiskRateArgs, CacheArgs {
  size?: string | undefined;
  kind?: 'file' | 'ram' | 'null' | undefined;
  blockSize?: number | undefined;
  adopt?: string | undefined;
  from?: string | undefined;
  readOnly?: boolean | undefined;
  ioTimeout?: string | undefined;
}

const IO_TIMEOUT = {
  type: 'string',
  describe: 'when an answer takes longer, the guest sees an I/O error: 500ms, 30s, 5min; none (default): it waits',
} as const;

function toRequest(args: CreateArgs): VolumeRequest {
  const { size, kind, blockSize, adopt, from, readOnly, ioTimeout } = args;
  const rate = parseDiskRate(args);
  const cache = parseVolumeCache(args);
  if (from === undefined && (size === undefined) === (adopt === undefined)) {
    const what = size === undefined ? 'neither --size nor --adopt is given' : '--size and --adopt exclude each other';
    throw refuse('usage', `${what}: a new volume needs --size, an existing file --adopt PATH, a clone --from BASE`, {
      command: 'volume create',
    });
  }
  return {
    ...(size === undefined ? {} : { size: parseSize(size, '--size') }),
    ...(kind === undefined ? {} : { kind }),
    ...(blockSize === undefined ? {} : { block_size: blockSize as 512 | 4096 }),
    ...(adopt === undefined ? {} : { adopt }),
    ...(from === undefined ? {} : { from }),
    ...(readOnly ? { read_only: true } : {}),
    ...(ioTimeout === undefined ? {} : { io_timeout_ms: parseTimeout(ioTimeout, '--io-timeout') }),
    ...(rate === undefined ? {} : { rate }),
    ...(cache === undefined ? {} : { cache }),
  };
}

interface SetArgs extends DiskRateArgs, CacheArgs {
  ioTimeout?: string | undefined;
  worker?: string | undefined;
}

function toChange(args: SetArgs): VolumeChange {
  const [rate, cache] = [parseDiskRate(args), parseVolumeCache(args)];
  if (rate === undefined && cache === undefined && args.ioTimeout === undefined && args.worker === undefined) {
    throw refuse('usage', 'there is nothing to set', { command: 'volume set' });
  }
  return {
    ...(cache === undefined ? {} : { cache }),
    ...(args.ioTimeout === undefined ? {} : { io_timeout_ms: parseTimeout(args.ioTimeout, '--io-timeout') }),
    ...(rate === undefined ? {} : { rate }),
    ...(args.worker === undefined ? {} : { worker: args.worker === 'auto' ? null : parseWorker(args.worker) }),
  };
}

/** The number of a worker. */
function parseWorker(text: string): number {
  if (!/^\d{1,2}$/.test(text)) {
    throw refuse('usage', `${text} is not a worker: \`outrigger worker ls\` lists their numbers`, {
      command: 'volume',
    });
  }
  return Number(text);
}

/** Of a volume or VOLUME@SNAPSHOT. */
function contentPath(name: string, what: 'export' | 'digest'): string {
  const { volume, snapshot } = parseSnapshot(name);
  const query = snapshot === undefined ? '' : `?snapshot=${segment(snapshot)}`;
  return `/v1/volumes/${segment(volume)}/${what}${query}`;
}

export function volumeCommand(context: CommandContext) {
  return (yargs: Argv) =>
    yargs
      .command(
        'create <name>',
        'Create a volume, clone one, or adopt a raw file or block device',
        (y) =>
          withTarget(y)
            .positional('name', { type: 'string', demandOption: true, describe: 'name of the volume' })
            .options({
              size: { type: 'string', describe: 'size of a new volume: 512M, 10G, 1T (binary units)' },
              from: {
                type: 'string',
                describe: 'BASE or BASE@SNAPSHOT: a clone, at once, also of a volume in use; --size makes it larger',
              },
              kind: {
                choices: ['file', 'ram', 'null'] as const,
                describe: 'file (default; sparse), ram (lost when the engine ends), null (keeps nothing)',
              },
              'block-size': { type: 'number', choices: [512, 4096], describe: 'logical block of a ram or null volume' },
              adopt: { type: 'string', describe: 'absolute path of what exists on the I/O hypervisor' },
              'read-only': { type: 'boolean', describe: 'with --adopt: never write to it' },
              'io-timeout': IO_TIMEOUT,
              ...DISK_RATE_OPTIONS,
              ...CACHE_OPTIONS,
            })
            .example('$0 volume create disk1 --size 10G', 'a sparse file in volume_dir')
            .example('$0 volume create web1 --from debian', 'a clone: it takes space for what differs only')
            .example('$0 volume create fast --size 1G --kind ram', 'in memory, for benchmarks')
            .example('$0 volume create data --adopt /dev/vg0/data', 'what exists, with what it holds'),
        async (args) => {
          const path = `/v1/volumes/${segment(args.name)}`;
          const client = clientFor(args);
          const volume = await (args.from === undefined
            ? client.call<VolumeView>('PUT', path, toRequest(args))
            : client.callSlowly<VolumeView>('PUT', path, toRequest(args))); // its base is flushed first
          context.out(args.json ? toJson(volume) : renderVolume(volume));
        },
      )
      .command(
        'set <name>',
        'Change a volume, also while guests use it',
        (y) =>
          withTarget(y)
            .positional('name', { type: 'string', demandOption: true })
            .options({
              'io-timeout': IO_TIMEOUT,
              ...DISK_RATE_OPTIONS,
              ...CACHE_OPTIONS,
              worker: { type: 'string', describe: 'pin it to this worker; auto: to none' },
            })
            .example('$0 volume set disk1 --iops 2000 --bps 100M', 'what is left out stays as it is')
            .example('$0 volume set disk1 --cache write-back', 'writes end in memory, a flush makes them durable')
            .example(
              '$0 volume set disk1 --io-timeout 30s',
              'for a guest that copes better with errors than with waiting',
            ),
        async (args) => {
          const path = `/v1/volumes/${segment(args.name)}`;
          const volume = await clientFor(args).call<VolumeView>('PATCH', path, toChange(args));
          context.out(args.json ? toJson(volume) : renderVolume(volume));
        },
      )
      .command(
        'move <name> <worker>',
        'Let another worker serve a volume, also while guests use it',
        (y) =>
          withTarget(y)
            .positional('name', { type: 'string', demandOption: true })
            .positional('worker', { type: 'string', demandOption: true, describe: 'see `outrigger worker ls`' })
            .example('$0 volume move disk1 1', 'once; `volume set disk1 --worker 1` keeps it there'),
        async (args) => {
          const path = `/v1/volumes/${segment(args.name)}/move`;
          const body: MoveRequest = { worker: parseWorker(args.worker) };
          const volume = await clientFor(args).call<VolumeView>('POST', path, body);
          context.out(args.json ? toJson(volume) : renderVolume(volume));
        },
      )
      .command(
        'ls',
        'List volumes',
        (y) => withTarget(y),
        async (args) => {
          const volumes = await clientFor(args).get<VolumeView[]>('/v1/volumes');
          context.out(args.json ? toJson(volumes) : renderVolumes(volumes));
        },
      )
      .command(
        'show <name>',
        'Show one volume',
        (y) => withTarget(y).positional('name', { type: 'string', demandOption: true }),
        async (args) => {
          const volume = await clientFor(args).get<VolumeView>(`/v1/volumes/${segment(args.name)}`);
          context.out(args.json ? toJson(volume) : renderVolume(volume));
        },
      )
      .command(
        'rm <name>',
        'Remove a volume and, if it was created here, its data',
        (y) =>
          withTarget(y)
            .positional('name', { type: 'string', demandOption: true })
            .option('keep', {
              type: 'boolean',
              default: false,
              describe: 'keep the file (an adopted one always stays, as it was before the first snapshot or clone)',
            })
            .example('$0 volume rm disk1', 'the volume and its file')
            .example('$0 volume rm disk1 --keep', 'the volume only'),
        async (args) => {
          await clientFor(args).call('DELETE', `/v1/volumes/${segment(args.name)}?keep=${args.keep}`);
          context.out(args.json ? toJson({ removed: args.name }) : `removed ${args.name}\n`);
        },
      )
      .command(
        'export <name> <file>',
        'Save the content of a volume as one file, compressed; it is checked while it comes',
        (y) =>
          withTarget(y)
            .positional('name', { type: 'string', demandOption: true })
            .positional('file', { type: 'string', demandOption: true, describe: 'a new file, or - for the output' })
            .example('$0 volume export disk1 disk1.orvol', 'with --url also from another machine')
            .example('$0 volume export disk1@monday disk1.orvol', 'a snapshot, also while guests use the volume')
            .example('$0 volume export disk1 - | ssh other outrigger volume import disk1 -', 'from one to another'),
        async (args) => {
          const body = await clientFor(args).download(contentPath(args.name, 'export'));
          const { isStandard, saveExport } = await import('../stream-files.js');
          const result = await saveExport(body, args.file);
          const text = args.json ? toJson(result) : renderTransfer(`exported ${args.name}`, result);
          (isStandard(args.file) ? context.err : context.out)(text);
        },
      )
      .command(
        'import <name> <file>',
        'Make a volume out of an exported file',
        (y) =>
          withTarget(y)
            .positional('name', { type: 'string', demandOption: true, describe: 'name of the new volume' })
            .positional('file', { type: 'string', demandOption: true, describe: 'the file, or - for the input' })
            .example('$0 volume import disk2 disk1.orvol', 'a new volume disk2 with the content of disk1'),
        async (args) => {
          const { openExport } = await import('../stream-files.js');
          const source = await openExport(args.file);
          const path = `/v1/volumes/${segment(args.name)}/import`;
          const result = await clientFor(args).upload<ImportView>(path, source);
          context.out(args.json ? toJson(result) : renderTransfer(`imported ${args.name}`, result));
        },
      )
      .command(
        'digest <name>',
        'XXH3-128 of the content of a volume',
        (y) =>
          withTarget(y)
            .positional('name', { type: 'string', demandOption: true })
            .example('$0 volume digest disk1', 'equal content, equal digest: compare a volume and its import'),
        async (args) => {
          const result = await clientFor(args).callSlowly<DigestView>('GET', contentPath(args.name, 'digest'));
          context.out(args.json ? toJson(result) : `${result.digest}\n`);
        },
      )
      .command('snapshot', 'What a volume held at a moment: create, ls, rm, rollback', snapshotCommand(context))
      .demandCommand(1, 'which of: create, set, move, ls, show, rm, export, import, digest, snapshot?');
}
