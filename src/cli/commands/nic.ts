// `outrigger nic create|set|ls|show|rm`.
import type { Argv } from 'yargs';
import type { NicChange, NicRequest, NicView } from '../../api/nic-schemas.js';
import { refuse } from '../../errors.js';
import { MACVTAP_MODES, type MacvtapMode } from '../../supervisor/model.js';
import { type CommandContext, clientFor, segment, toJson, withTarget } from '../context.js';
import { parseRate } from '../rates.js';
import { renderNic, renderNics } from '../render-nic.js';

const namePositional = { type: 'string', demandOption: true, describe: 'name of the NIC' } as const;

const ADDRESS = {
  type: 'string',
  array: true,
  nargs: 1,
  describe: 'IP address or network that the guest may send from; may be repeated; none given: any',
} as const;
const RATE = {
  type: 'string',
  describe: 'as the guest sees it: tx=100M,rx=1G (bits/s), tx-pps=20K,rx-pps=20K, burst=256K (bytes); none: no limit',
} as const;
const LINK = { choices: ['up', 'down'] as const, describe: 'down: the guest sees no carrier' } as const;

interface CreateArgs {
  bridge?: string | undefined;
  tap?: string | undefined;
  macvtap?: string | undefined;
  hub?: string | undefined;
  mac?: string | undefined;
  mtu?: number | undefined;
  address?: string[] | undefined;
  spoofCheck: boolean;
  rate?: string | undefined;
  link?: 'up' | 'down' | undefined;
}

/** `eth1` or `eth1,vepa` */
function parseMacvtap(text: string): NonNullable<NicRequest['macvtap']> {
  const [parent = '', mode, rest] = text.split(',');
  const isMode = mode === undefined || (MACVTAP_MODES as readonly string[]).includes(mode);
  if (parent === '' || !isMode || rest !== undefined) {
    throw refuse('usage', `--macvtap ${text} is not DEV or DEV,MODE with a mode of ${MACVTAP_MODES.join(', ')}`, {
      command: 'nic create',
    });
  }
  return mode === undefined ? { parent } : { parent, mode: mode as MacvtapMode };
}

function toRequest(args: CreateArgs): NicRequest {
  const { bridge, tap, macvtap, hub, mac, mtu, address, spoofCheck, rate, link } = args;
  const places = [bridge !== undefined || tap !== undefined, macvtap !== undefined, hub !== undefined];
  if (places.filter(Boolean).length !== 1) {
    const what = 'a NIC needs one place for its frames: --bridge BR, --tap NAME (with --bridge or not)';
    throw refuse('usage', `${what}, --macvtap DEV[,MODE] or --hub NAME`, { command: 'nic create' });
  }
  return {
    ...(bridge === undefined ? {} : { bridge }),
    ...(tap === undefined ? {} : { tap }),
    ...(macvtap === undefined ? {} : { macvtap: parseMacvtap(macvtap) }),
    ...(hub === undefined ? {} : { hub }),
    ...(mac === undefined ? {} : { mac }),
    ...(mtu === undefined ? {} : { mtu }),
    ...(address === undefined ? {} : { addresses: address }),
    ...(spoofCheck ? {} : { spoof_check: false }),
    ...(rate === undefined ? {} : { rate: parseRate(rate) }),
    ...(link === undefined ? {} : { link }),
  };
}

interface SetArgs {
  address?: string[] | undefined;
  anyAddress?: boolean | undefined;
  spoofCheck?: boolean | undefined;
  rate?: string | undefined;
  link?: 'up' | 'down' | undefined;
}

function toChange({ address, anyAddress, spoofCheck, rate, link }: SetArgs): NicChange {
  const addresses = anyAddress ? [] : address;
  const change: NicChange = {
    ...(addresses === undefined ? {} : { addresses }),
    ...(spoofCheck === undefined ? {} : { spoof_check: spoofCheck }),
    ...(rate === undefined ? {} : { rate: parseRate(rate) }),
    ...(link === undefined ? {} : { link }),
  };
  if (Object.keys(change).length === 0) {
    throw refuse('usage', 'there is nothing to set', { command: 'nic set' });
  }
  return change;
}

export function nicCommand(context: CommandContext) {
  return (yargs: Argv) =>
    yargs
      .command(
        'create <name>',
        'Create a NIC: what the guest sends leaves the I/O hypervisor there',
        (y) =>
          withTarget(y)
            .positional('name', namePositional)
            .options({
              bridge: { type: 'string', describe: 'Linux bridge on the I/O hypervisor; the NIC gets a tap on it' },
              tap: { type: 'string', describe: 'name of the tap: made when it is not there, else used as it is' },
              macvtap: { type: 'string', describe: `DEV[,MODE]: ${MACVTAP_MODES.join(', ')}; default bridge` },
              hub: { type: 'string', describe: 'switch within the engine, for NICs that only reach each other' },
              mac: { type: 'string', describe: 'default: 52:54:00 and a digest of the name' },
              mtu: { type: 'number', describe: 'default 1500; the guest is told' },
              address: ADDRESS,
              'spoof-check': {
                type: 'boolean',
                default: true,
                describe: 'drop what the guest sends from an address that is not its own (--no-spoof-check: do not)',
              },
              rate: RATE,
              link: LINK,
            })
            .example('$0 nic create nic1 --bridge br0', 'a port of a Linux bridge')
            .example('$0 nic create nic1 --macvtap eth1,vepa --mtu 9000', 'on a physical NIC')
            .example('$0 nic create nic1 --hub lab --address 10.0.0.5', 'among the NICs of the hub lab'),
        async (args) => {
          const nic = await clientFor(args).call<NicView>('PUT', `/v1/nics/${segment(args.name)}`, toRequest(args));
          context.out(args.json ? toJson(nic) : renderNic(nic));
        },
      )
      .command(
        'set <name>',
        'Change a NIC, also while a guest uses it',
        (y) =>
          withTarget(y)
            .positional('name', namePositional)
            .options({
              rate: { ...RATE, describe: `${RATE.describe}; what is left out stays` },
              link: LINK,
              address: ADDRESS,
              'any-address': { type: 'boolean', describe: 'it may send from any IP address' },
              'spoof-check': { type: 'boolean', describe: 'as of create; --no-spoof-check: off' },
            })
            .conflicts('address', 'any-address')
            .example('$0 nic set nic1 --rate tx=100M,rx=1G', '')
            .example('$0 nic set nic1 --link down', 'pull the cable'),
        async (args) => {
          const nic = await clientFor(args).call<NicView>('PATCH', `/v1/nics/${segment(args.name)}`, toChange(args));
          context.out(args.json ? toJson(nic) : renderNic(nic));
        },
      )
      .command(
        'ls',
        'List NICs',
        (y) => withTarget(y),
        async (args) => {
          const nics = await clientFor(args).get<NicView[]>('/v1/nics');
          context.out(args.json ? toJson(nics) : renderNics(nics));
        },
      )
      .command(
        'show <name>',
        'Show one NIC, with what it carried and dropped',
        (y) => withTarget(y).positional('name', namePositional),
        async (args) => {
          const nic = await clientFor(args).get<NicView>(`/v1/nics/${segment(args.name)}`);
          context.out(args.json ? toJson(nic) : renderNic(nic));
        },
      )
      .command(
        'rm <name>',
        'Remove a NIC, with its interface if that was made for it',
        (y) => withTarget(y).positional('name', namePositional),
        async (args) => {
          await clientFor(args).call('DELETE', `/v1/nics/${segment(args.name)}`);
          context.out(args.json ? toJson({ removed: args.name }) : `removed ${args.name}\n`);
        },
      )
      .demandCommand(1, 'which of: create, set, ls, show, rm?');
}
