// The network beyond the I/O hypervisor: a namespace at the far end of a cable of its own.
//
//   iohv: br0 ── uplink ── veth ── out0 :outside     10.77.0.1/24, fd77::1/64; DHCP, HTTP, iperf3
//
// A bridge in the I/O hypervisor's namespace has `uplink` as its port; a macvtap sits on `uplink` itself.
import { mkdirSync, writeFileSync } from 'node:fs';
import type { Cleanup } from './cleanup.js';
import { type Argv, runSync } from './command.js';
import type { Segment } from './netns.js';
import { LabProcess } from './process.js';

export const UPLINK = 'uplink';
export const BRIDGE = 'br0';
export const OUTSIDE_INTERFACE = 'out0';
export const OUTSIDE = { ipv4: '10.77.0.1', ipv6: 'fd77::1' } as const;
const READY_MS = 10_000;

export interface OutsideOptions {
  segment: Segment;
  dir: string;
  cleanup: Cleanup;
  /** Whether the uplink is a port of a bridge. */
  bridged: boolean;
}

export class Outside {
  readonly #options: OutsideOptions;

  private constructor(options: OutsideOptions) {
    this.#options = options;
  }

  static open(options: OutsideOptions): Outside {
    const { segment, cleanup, bridged } = options;
    segment.addNamespace('outside', cleanup);
    for (const scope of ['all', 'default']) {
      runSync(segment.wrap('outside', ['sysctl', '-qw', `net.ipv6.conf.${scope}.disable_ipv6=0`]));
    }
    segment.addCable({ place: 'iohv', name: UPLINK }, { place: 'outside', name: OUTSIDE_INTERFACE });
    const address = ['address', 'add', 'dev', OUTSIDE_INTERFACE];
    runSync(['ip', '-n', segment.namespace('outside'), ...address, `${OUTSIDE.ipv4}/24`]);
    runSync(['ip', '-n', segment.namespace('outside'), ...address, `${OUTSIDE.ipv6}/64`, 'nodad']);
    if (bridged) {
      const iohv = ['ip', '-n', segment.namespace('iohv'), 'link'] as const;
      runSync([...iohv, 'add', BRIDGE, 'mtu', `${segment.mtu}`, 'type', 'bridge']);
      runSync([...iohv, 'set', UPLINK, 'master', BRIDGE]);
      runSync([...iohv, 'set', BRIDGE, 'up']);
    }
    return new Outside(options);
  }

  async start(name: string, ready: RegExp | undefined, argv: Argv): Promise<LabProcess> {
    const { segment, dir, cleanup } = this.#options;
    const logFile = `${dir}/${name}.log`;
    const started = new LabProcess({ name, argv: segment.wrap('outside', argv), logFile, cleanup });
    if (ready !== undefined) {
      await started.waitForLine(ready, READY_MS);
    }
    return started;
  }

  /** Gives out 10.77.0.100 to 10.77.0.200, and the MTU. */
  startDhcp(mtu: number): Promise<LabProcess> {
    const { dir } = this.#options;
    return this.start('dnsmasq', /DHCP, IP range/, [
      ...(['dnsmasq', '--keep-in-foreground', '--log-facility=-', '--conf-file=/dev/null', '--user=root'] as const),
      ...[
        '--pid-file',
        `--dhcp-leasefile=${dir}/leases`,
        '--port=0',
        `--interface=${OUTSIDE_INTERFACE}`,
        '--bind-interfaces',
      ],
      ...['--dhcp-authoritative', '--no-ping', '--dhcp-range=10.77.0.100,10.77.0.200,255.255.255.0,1h'],
      `--dhcp-option=option:mtu,${mtu}`,
    ]);
  }

  /** Serves `content` as http://10.77.0.1/file. */
  startHttp(content: Uint8Array): Promise<LabProcess> {
    const root = `${this.#options.dir}/www`;
    mkdirSync(root);
    writeFileSync(`${root}/file`, content);
    return this.start('httpd', undefined, ['busybox', 'httpd', '-f', '-p', `${OUTSIDE.ipv4}:80`, '-h', root]);
  }

  startIperf(): Promise<LabProcess> {
    return this.start('iperf3', /^Server listening/, ['iperf3', '--server', '--forceflush']);
  }
}
