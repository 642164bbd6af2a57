// What a schema cannot know: files, their modes, the machine's network interfaces. Pure except for the
// probe, so that every complaint can be provoked in a test.
import { readdirSync, readFileSync } from 'node:fs';
import { totalmem } from 'node:os';
import { createSecureContext } from 'node:tls';
import { messageOf } from '../errors.js';
import { UNIT_RUN_DIR } from '../supervisor/engine-launcher.js';
import { cacheBytes, cacheRange, cacheSizeProblem } from './cache-size.js';
import { type FileResult, readKeyFile, readTextFile } from './keys.js';
import type { KeyPath } from './problem.js';
import { MTU_MIN } from './rules.js';
import type { HostConfig, IohvConfig, PortConfig } from './schema.js';
import { formatSize } from './size.js';
import { readTokens } from './tokens.js';

export interface Check {
  path: KeyPath;
  message: string;
  hint: string;
}

/** What the checks ask the machine. */
export interface Probe {
  /** Names of the network interfaces of this network namespace. */
  interfaces(): string[];
  /** The link's MTU, or undefined when it cannot be known here. */
  linkMtu(name: string): number | undefined;
  /** The id of a group, or undefined. */
  groupId(name: string): number | undefined;
  memoryBytes(): number;
}

export const systemProbe: Probe = {
  interfaces() {
    // /proc/net follows the network namespace of the process; /sys shows the one it was mounted in.
    const lines = readFileSync('/proc/net/dev', 'utf8').split('\n').slice(2);
    return lines.map((line) => line.split(':')[0]?.trim() ?? '').filter((name) => name !== '');
  },
  linkMtu(name) {
    const inSys = readdirSync('/sys/class/net').sort().join();
    if (inSys !== this.interfaces().sort().join()) {
      return undefined; // /sys is another namespace's: the engine will compare
    }
    return Number(readFileSync(`/sys/class/net/${name}/mtu`, 'utf8'));
  },
  groupId(name) {
    const line = readFileSync('/etc/group', 'utf8')
      .split('\n')
      .find((entry) => entry.startsWith(`${name}:`));
    return line === undefined ? undefined : Number(line.split(':')[2]);
  },
  memoryBytes: totalmem,
};

export function checkIohv(config: IohvConfig, probe: Probe): Check[] {
  const { listen } = config.api;
  return [
    ...checkPort(config.port, probe),
    ...checkLauncher(config),
    ...checkWorkers(config),
    ...checkWorkersOverXdp(config),
    ...checkCache(config, probe),
    ...config.hosts.flatMap((host, i) => fileCheck(['hosts', i, 'key_file'], readKeyFile(host.key_file))),
    ...checkHostNames(config),
    ...checkGroup(['api', 'socket_group'], config.api.socket_group, probe),
    ...(listen === undefined
      ? []
      : [
          ...fileCheck(['api', 'listen', 'cert'], readTextFile(listen.cert, false)),
          ...fileCheck(['api', 'listen', 'key'], readTextFile(listen.key, true)),
          ...fileCheck(['api', 'listen', 'tokens_file'], readTokens(listen.tokens_file)),
          ...checkPair(listen.cert, listen.key),
        ]),
  ];
}

export function checkHost(config: HostConfig, probe: Probe): Check[] {
  return [
    ...checkPort(config.port, probe),
    ...checkLauncher(config),
    ...checkUnicast('mac', config.iohv.mac),
    ...(config.iohv.second_mac === undefined ? [] : checkUnicast('second_mac', config.iohv.second_mac)),
    ...fileCheck(['iohv', 'key_file'], readKeyFile(config.iohv.key_file)),
    ...checkGroup(['socket_group'], config.socket_group, probe),
    ...checkGroup(['api', 'socket_group'], config.api.socket_group, probe),
  ];
}

/** The template unit names its run_dir. */
function checkLauncher(config: Pick<IohvConfig, 'run_dir' | 'engine'>): Check[] {
  return config.engine.launcher !== 'systemd' || config.run_dir === UNIT_RUN_DIR
    ? []
    : [
        {
          path: ['engine', 'launcher'],
          message: `systemd starts engines in ${UNIT_RUN_DIR} only, and run_dir is ${config.run_dir}`,
          hint: `leave run_dir out, or set launcher to spawn`,
        },
      ];
}

/** Each worker has its own CPU, or none in particular. */
function checkWorkers({ worker: { count, cpu } }: IohvConfig): Check[] {
  const told = Array.isArray(cpu) ? cpu.length : 1;
  if (told === count || cpu === null) {
    return [];
  }
  const found = Array.isArray(cpu) ? `a list of ${told}` : `one CPU, ${cpu}`;
  const example = Array.from({ length: count }, (_, i) => i);
  return [
    {
      path: ['worker', 'cpu'],
      message: `${found}, and there are ${count} workers`,
      hint: `name a CPU for each, such as [${example.join(', ')}], or leave it out: then none is pinned`,
    },
  ];
}

/** Frames that the NIC put into a queue reach no socket of another one: they cannot be steered by worker. */
function checkWorkersOverXdp({ worker: { count }, port: { mode } }: IohvConfig): Check[] {
  if (mode !== 'xdp' || count === 1) {
    return [];
  }
  return [
    {
      path: ['worker', 'count'],
      message: `${count} workers cannot share an interface by AF_XDP`,
      hint: 'set `worker.count` to 1, or `port.mode` to packet',
    },
  ];
}

function checkCache({ cache, worker: { count } }: IohvConfig, probe: Probe): Check[] {
  const bytes = cacheBytes(cache.size);
  const range = cacheRange(count, probe.memoryBytes());
  const message = bytes === 0 ? undefined : cacheSizeProblem(bytes, range);
  const hint = `choose ${formatSize(range.least)} to ${formatSize(range.most)}, or 0: no cache`;
  return message === undefined ? [] : [{ path: ['cache', 'size'], message, hint }];
}

function fileCheck(path: KeyPath, result: FileResult<unknown>): Check[] {
  return result.ok ? [] : [{ path, ...result.problem }];
}

/** Whether certificate and key belong together; silent about what the other checks tell. */
function checkPair(certFile: string, keyFile: string): Check[] {
  const [cert, key] = [readTextFile(certFile, false), readTextFile(keyFile, true)];
  if (!cert.ok || !key.ok) {
    return [];
  }
  try {
    createSecureContext({ cert: cert.value, key: key.value });
    return [];
  } catch (error) {
    return [
      {
        path: ['api', 'listen', 'cert'],
        message: `${certFile} and ${keyFile} are not a certificate and its private key: ${messageOf(error)}`,
        hint: 'both are PEM files and belong together',
      },
    ];
  }
}

function checkPort(port: PortConfig, probe: Probe): Check[] {
  if (port.mtu !== 0 && port.mtu < MTU_MIN) {
    return [
      {
        path: ['port', 'mtu'],
        message: `${port.mtu} is out of range (must be 0 or at least ${MTU_MIN})`,
        hint: "0 takes the link's MTU",
      },
    ];
  }
  if (port.mode === 'xdp' && port.super_frames === 'on') {
    return [
      {
        path: ['port', 'super_frames'],
        message: 'AF_XDP has no super-frames',
        hint: 'set `port.super_frames` to auto or off, or `port.mode` to packet',
      },
    ];
  }
  const { second_interface: second } = port;
  if (second === port.interface) {
    return [
      {
        path: ['port', 'second_interface'],
        message: `\`${second}\` is named twice`,
        hint: 'name another interface, or leave it out',
      },
    ];
  }
  return [
    ...checkInterface('interface', port.interface, port.mtu, probe),
    ...(second === undefined ? [] : checkInterface('second_interface', second, port.mtu, probe)),
  ];
}

function checkInterface(key: string, name: string, mtu: number, probe: Probe): Check[] {
  const known = probe.interfaces();
  if (!known.includes(name)) {
    return [
      {
        path: ['port', key],
        message: `there is no network interface \`${name}\``,
        hint: `interfaces of this machine (and network namespace): ${known.join(', ')}`,
      },
    ];
  }
  const linkMtu = probe.linkMtu(name);
  if (linkMtu !== undefined && mtu > linkMtu) {
    return [
      {
        path: ['port', 'mtu'],
        message: `${mtu} is above the link's MTU, ${linkMtu}`,
        hint: `lower it, or raise the link's: ip link set ${name} mtu ${mtu}   (also at the peers and the switch)`,
      },
    ];
  }
  return [];
}

function checkHostNames(config: IohvConfig): Check[] {
  return config.hosts.flatMap((host, i) =>
    config.hosts.findIndex((other) => other.name === host.name) === i
      ? []
      : [
          {
            path: ['hosts', i, 'name'],
            message: `the host \`${host.name}\` is listed twice`,
            hint: 'give every host its own name and key',
          },
        ],
  );
}

function checkUnicast(key: string, mac: string): Check[] {
  const first = Number.parseInt(mac.slice(0, 2), 16);
  return (first & 1) === 0
    ? []
    : [
        {
          path: ['iohv', key],
          message: `${mac} is a multicast address`,
          hint: 'name the address of an interface of the I/O hypervisor; `outrigger status` there shows it',
        },
      ];
}

function checkGroup(path: KeyPath, group: string | null, probe: Probe): Check[] {
  return group === null || probe.groupId(group) !== undefined
    ? []
    : [{ path, message: `there is no group \`${group}\``, hint: 'groups are listed by: getent group' }];
}
