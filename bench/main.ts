// The entry point of `npm run bench -- COMMAND`.
import yargs from 'yargs';
import { hideBin } from 'yargs/helpers';
import { LabError } from '../test/lab/errors.js';
import { benchAims } from './aims.js';
import { benchBlock } from './block.js';
import { benchCache } from './cache.js';
import { benchClones } from './clones.js';
import { benchDispatch } from './dispatch.js';
import { benchFair } from './fair.js';
import { benchHogs } from './hogs.js';
import { benchIdle } from './idle.js';
import { benchIntercept, PARTS, type Part } from './intercept.js';
import { formatComparison } from './lib/compare.js';
import { BenchError } from './lib/errors.js';
import { writeReport } from './lib/report/write.js';
import { readResult } from './lib/result.js';
import { INTEGRITIES } from './lib/system.js';
import { LOUD } from './lib/vm-disks.js';
import { benchMicro } from './micro.js';
import { benchNeighbour } from './neighbour.js';
import { benchNet } from './net.js';

/** Of this run, for whoever reads its results. */
const command = `npm run bench -- ${process.argv.slice(2).join(' ')}`;

const MTU_MIN = 1500;
const MTU_MAX = 65535;
const VMS_MAX = 16;
const WORKERS_MAX = 16;
const EPOCH_MS_MAX = 10_000;

const list = (value: string): string[] => value.split(',').filter((item) => item !== '');

function mtus(text: string): number[] {
  const values = list(text).map(Number);
  const wrong = values.find((mtu) => !(Number.isInteger(mtu) && mtu >= MTU_MIN && mtu <= MTU_MAX));
  if (wrong !== undefined || values.length === 0) {
    throw new BenchError(`--mtu ${text}: give one or more of ${MTU_MIN} to ${MTU_MAX}, separated by commas`);
  }
  return values;
}

function counts(option: string, text: string, max: number): number[] {
  const values = list(text).map(Number);
  if (values.length === 0 || values.some((value) => !(Number.isInteger(value) && value >= 1 && value <= max))) {
    throw new BenchError(`--${option} ${text}: give one or more of 1 to ${max}, separated by commas`);
  }
  return values;
}

function parts(text: string): Part[] {
  const wanted = list(text);
  const known = PARTS.filter((part) => wanted.includes(part));
  if (known.length === 0 || known.length < wanted.length) {
    throw new BenchError(`--only ${text}: there are ${PARTS.join(', ')}`);
  }
  return known;
}

function positive(option: string, value: number): number {
  if (!(value > 0)) {
    throw new BenchError(`--${option}: give a number above 0`);
  }
  return value;
}

const cli = yargs(hideBin(process.argv))
  .scriptName('npm run bench --')
  .command(
    'block',
    'block volumes: Outrigger, its peers and its limits, measured by one load generator',
    (args) =>
      args.options({
        seconds: { type: 'number', default: 2, describe: 'measured time of each row' },
        repeat: { type: 'number', default: 1, describe: 'rounds over all rows; the median counts' },
        mtu: { type: 'string', default: '9000', describe: 'MTU, or several: 9000,65535' },
        systems: { type: 'string', default: '', describe: 'only these, separated by commas' },
        sweep: {
          ...{ type: 'string', default: 'standard' },
          describe: 'what to measure: standard, qd (depths 1 to 128), bs (blocks of 512 B to 1 MiB), or several',
        },
        vms: { type: 'string', default: '1', describe: 'so many disks at once, of the systems with VMs: 1,2,4,8,16' },
        workers: { type: 'string', default: '1', describe: 'of the I/O hypervisor behind the outrigger-vm rows: 1,2' },
        only: { type: 'string', array: true, default: [] as string[], describe: 'only rows with op=, bs= or qd= this' },
        integrity: { type: 'string', default: 'mac,crc,encrypt', describe: 'of the outrigger rows' },
        'volume-mib': { type: 'number', default: 512, describe: 'size of the volumes' },
        server: {
          choices: ['engine', 'harness'] as const,
          default: 'engine' as const,
          describe: 'behind the outrigger rows: the I/O hypervisor, or its data path alone',
        },
        json: { type: 'string', describe: 'write the rows to this file' },
        report: { type: 'string', describe: 'write a page with plots, the plots and the rows to this directory' },
        compare: { type: 'string', describe: 'a file of --json: say what changed beyond noise' },
      }),
    async (args) =>
      benchBlock({
        seconds: positive('seconds', args.seconds),
        repeat: positive('repeat', Math.floor(args.repeat)),
        mtus: mtus(args.mtu),
        systems: list(args.systems),
        sweeps: list(args.sweep),
        vms: counts('vms', args.vms, VMS_MAX),
        workers: counts('workers', args.workers, WORKERS_MAX),
        only: args.only,
        integrities: list(args.integrity),
        volumeMib: positive('volume-mib', Math.floor(args.volumeMib)),
        server: args.server,
        json: args.json,
        report: args.report,
        compare: args.compare,
        command,
      }),
  )
  .command(
    'report <results..>',
    'the page and plots of results that exist already',
    (args) =>
      args
        .positional('results', { type: 'string', array: true, demandOption: true, describe: 'files of --json' })
        .options({ out: { type: 'string', demandOption: true, describe: 'write them to this directory' } }),
    (args) => {
      process.stdout.write(`${writeReport(args.out, args.results.map(readResult))}\n`);
    },
  )
  .command(
    'compare <old> <new>',
    'what changed beyond noise between two results',
    (args) =>
      args
        .positional('old', { type: 'string', demandOption: true, describe: 'a file of --json' })
        .positional('new', { type: 'string', demandOption: true, describe: 'a later one' }),
    (args) => {
      process.stdout.write(formatComparison(readResult(args.old), readResult(args.new), args.old));
    },
  )
  .command(
    'net',
    'NICs: Outrigger, a Linux bridge and a switch in user space',
    (args) =>
      args.options({
        seconds: { type: 'number', default: 3, describe: 'measured time of each row' },
        mtu: { type: 'number', default: 1500, describe: 'of the guest and of who it talks to' },
        systems: { type: 'string', default: '', describe: 'only these, separated by commas' },
        json: { type: 'string', describe: 'write the rows to this file' },
      }),
    async (args) =>
      benchNet({
        seconds: positive('seconds', args.seconds),
        mtu: mtus(String(args.mtu))[0] ?? 1500,
        systems: list(args.systems),
        json: args.json,
      }),
  )
  .command(
    'neighbour',
    "a disk beside another guest's NIC that floods frames or garbage",
    (args) =>
      args.options({
        seconds: { type: 'number', default: 3, describe: 'measured time of each row' },
        repeat: { type: 'number', default: 3, describe: 'rounds over all rows; the medians count' },
        json: { type: 'string', describe: 'write the rows to this file' },
      }),
    async (args) =>
      benchNeighbour({
        seconds: positive('seconds', args.seconds),
        repeat: positive('repeat', Math.floor(args.repeat)),
        json: args.json,
      }),
  )
  .command(
    'fair',
    'a quiet disk beside a loud one, with the fair scheduler and in order of arrival',
    (args) =>
      args.options({
        seconds: { type: 'number', default: 3, describe: 'measured time of each row' },
        repeat: { type: 'number', default: 3, describe: 'rounds over all rows; the medians count' },
        quiet: { type: 'number', default: 1, describe: `quiet disks, read at once; at most ${VMS_MAX}` },
        json: { type: 'string', describe: 'write the rows to this file' },
      }),
    async (args) =>
      benchFair({
        seconds: positive('seconds', args.seconds),
        repeat: positive('repeat', Math.floor(args.repeat)),
        quiet: counts('quiet', String(args.quiet), VMS_MAX)[0] ?? 1,
        json: args.json,
      }),
  )
  .command(
    'dispatch',
    'quiet disks beside loud ones, with one worker and with two under each policy of placing volumes',
    (args) =>
      args.options({
        seconds: { type: 'number', default: 3, describe: 'measured time of each row, after 8 s of settling' },
        repeat: { type: 'number', default: 3, describe: 'rounds of each policy; the medians count' },
        quiet: { type: 'number', default: 2, describe: `quiet disks; at most ${VMS_MAX}` },
        loud: { type: 'number', default: 2, describe: `loud disks; at most ${VMS_MAX}` },
        what: {
          choices: Object.keys(LOUD) as (keyof typeof LOUD)[],
          default: '4 KiB, depth 128' as const,
          describe: 'of each loud disk',
        },
        json: { type: 'string', describe: 'write the rows to this file' },
      }),
    async (args) =>
      benchDispatch({
        seconds: positive('seconds', args.seconds),
        repeat: positive('repeat', Math.floor(args.repeat)),
        quiet: counts('quiet', String(args.quiet), VMS_MAX)[0] ?? 2,
        loud: counts('loud', String(args.loud), VMS_MAX)[0] ?? 2,
        what: args.what as keyof typeof LOUD,
        json: args.json,
      }),
  )
  .command(
    'micro',
    'single operations: digests, wire, rings, the border to JavaScript; nanoseconds each',
    (args) =>
      args.options({
        only: { type: 'string', default: '', describe: 'only cases whose name contains this' },
        json: { type: 'string', describe: 'write the results to this file' },
      }),
    async (args) => benchMicro({ only: args.only, json: args.json }),
  )
  .command(
    'hogs',
    'a volume in memory while other programs want the same cores, with and without raised priority',
    (args) =>
      args.options({
        seconds: { type: 'number', default: 2, describe: 'measured time of each row' },
        repeat: { type: 'number', default: 3, describe: 'rounds over all rows; the medians count' },
        integrity: { choices: INTEGRITIES, default: 'crc' as const, describe: 'of frames' },
        json: { type: 'string', describe: 'write the rows to this file' },
      }),
    async (args) =>
      benchHogs({
        seconds: positive('seconds', args.seconds),
        repeat: positive('repeat', Math.floor(args.repeat)),
        integrity: args.integrity,
        json: args.json,
      }),
  )
  .command(
    'aims',
    'everything that Outrigger aims at, in one table: 9 minutes on a quiet machine',
    (args) =>
      args.options({
        seconds: { type: 'number', default: 0.7, describe: 'measured time of each row' },
        repeat: { type: 'number', default: 2, describe: 'rounds over all rows; of two the slower counts' },
        json: { type: 'string', describe: 'write the verdicts and rows to this file' },
      }),
    async (args) =>
      benchAims({
        seconds: positive('seconds', args.seconds),
        repeat: positive('repeat', Math.floor(args.repeat)),
        json: args.json,
        command,
      }),
  )
  .command(
    'cache',
    'the block cache: hit ratios of its policies under block traces, the cost of a hit and of a miss',
    (args) =>
      args.options({
        trace: { type: 'string', array: true, default: [] as string[], describe: 'files to replay as well' },
        workload: { type: 'string', default: '', describe: 'of those that are made, only this' },
        tier: { type: 'boolean', default: false, describe: 'also what a compressed tier would gain and cost' },
        json: { type: 'string', describe: 'write the results to this file' },
      }),
    async (args) => benchCache({ traces: args.trace, workload: args.workload, tier: args.tier, json: args.json }),
  )
  .command(
    'clones',
    'the first write to a cluster of a clone, beside a file and a clone that has it: about 4 minutes',
    (args) =>
      args.options({
        seconds: { type: 'number', default: 2, describe: 'measured time of each row' },
        repeat: { type: 'number', default: 3, describe: 'rounds; the medians count' },
        json: { type: 'string', describe: 'write the rows to this file' },
      }),
    async (args) =>
      benchClones({
        seconds: positive('seconds', args.seconds),
        repeat: positive('repeat', Math.floor(args.repeat)),
        json: args.json,
        command,
      }),
  )
  .command(
    'intercept',
    'disks and NICs whose output is held, by the length of epochs, and what a checkpoint costs',
    (args) =>
      args.options({
        seconds: { type: 'number', default: 2, describe: 'measured time of each row' },
        repeat: { type: 'number', default: 3, describe: 'rounds of each row; the medians count' },
        epochs: { type: 'string', default: '10,25,50,100,250', describe: 'lengths, in milliseconds' },
        only: { type: 'string', default: PARTS.join(), describe: `parts, separated by commas: ${PARTS.join()}` },
        json: { type: 'string', describe: 'write the rows to this file' },
      }),
    async (args) =>
      benchIntercept({
        seconds: positive('seconds', args.seconds),
        repeat: positive('repeat', Math.floor(args.repeat)),
        epochs: counts('epochs', args.epochs, EPOCH_MS_MAX),
        only: parts(args.only),
        json: args.json,
        command,
      }),
  )
  .command(
    'idle',
    'CPU time of an I/O hypervisor and a host agent that have nothing to do',
    (args) =>
      args.options({
        seconds: { type: 'number', default: 10, describe: 'measured time' },
        disks: { type: 'number', default: 16, describe: 'attached disks' },
        json: { type: 'string', describe: 'write the result to this file' },
      }),
    async (args) =>
      benchIdle({
        seconds: positive('seconds', args.seconds),
        disks: positive('disks', Math.floor(args.disks)),
        json: args.json,
      }),
  )
  .demandCommand(1, 'name what to measure')
  .strict()
  .fail((message, error) => {
    if (error !== undefined && !(error instanceof BenchError || error instanceof LabError)) {
      throw error;
    }
    process.stderr.write(`bench: ${error?.message ?? message}\n`);
    process.exit(error === undefined ? 2 : 1);
  });

await cli.parseAsync();
