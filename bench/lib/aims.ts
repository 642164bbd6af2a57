// What Outrigger should reach against its peers and its limits in the same run, and whether it does.
import { cpuUsPerIo, describeSystem, type Row } from './row.js';
import type { Integrity } from './system.js';
import { describeWorkload, sameWorkload, type Workload } from './workloads.js';

type Figure = 'p50' | 'IOPS' | 'MB/s' | 'CPU per I/O';

interface Aim {
  systems: readonly string[];
  /** The best of these counts. */
  against: { what: string; systems: readonly string[]; integrity?: Integrity };
  figure: Figure;
  /** At most so many times the other's time, at least so many times its rate. */
  factor: number;
  applies(row: Row): boolean;
}

const NBD = { what: 'the best NBD server', systems: ['qemu-nbd', 'nbdkit-file', 'nbdkit-memory'] } as const;
const TCP_ECHO = { what: 'a bare TCP echo', systems: ['tcp-echo'] } as const;
const PORT_ECHO = { what: 'our bare port', systems: ['port-echo'] } as const;
const RAM = ['outrigger-ram'] as const;
const CRC = { what: '`crc`', systems: RAM, integrity: 'crc' } as const;
const LARGE_FRAMES = 65535;

const isAt =
  (bs: number, ...depths: number[]) =>
  ({ bs: of, qd }: Workload) =>
    of === bs && depths.includes(qd);
const FOUR_K_1 = isAt(4096, 1);
const ONE_VM = (row: Row) => row.vms === 1 && row.workers === 1 && isAt(4096, 1, 32)(row);
const SEQUENTIAL = (row: Row) => isAt(131072, 8)(row) && (row.op === 'read' || row.op === 'write');
const FOUR_K_32 = isAt(4096, 32);
const isMac = ({ integrity }: Row) => integrity === 'mac';

export const AIMS: readonly Aim[] = [
  { systems: RAM, against: NBD, figure: 'p50', factor: 0.15, applies: FOUR_K_1 },
  { systems: RAM, against: TCP_ECHO, figure: 'p50', factor: 0.6, applies: FOUR_K_1 },
  { systems: RAM, against: PORT_ECHO, figure: 'p50', factor: 1 / 0.7, applies: FOUR_K_1 },
  {
    ...{ systems: RAM, against: NBD, figure: 'IOPS', factor: 8 },
    applies: (row) => FOUR_K_32(row) && row.mtu === LARGE_FRAMES,
  },
  {
    ...{ systems: RAM, against: NBD, figure: 'IOPS', factor: 5 },
    applies: (row) => FOUR_K_32(row) && row.mtu !== LARGE_FRAMES,
  },
  {
    ...{ systems: RAM, against: TCP_ECHO, figure: 'IOPS', factor: 1 },
    applies: (row) => FOUR_K_32(row) && row.mtu === LARGE_FRAMES,
  },
  { systems: RAM, against: PORT_ECHO, figure: 'IOPS', factor: 0.7, applies: FOUR_K_32 },
  { systems: RAM, against: NBD, figure: 'MB/s', factor: 2, applies: SEQUENTIAL },
  { systems: RAM, against: NBD, figure: 'CPU per I/O', factor: 0.25, applies: isAt(4096, 1, 32) },
  // The peers check nothing: what `mac` adds is judged by itself.
  { systems: RAM, against: CRC, figure: 'p50', factor: 1.25, applies: (row) => isMac(row) && FOUR_K_1(row) },
  {
    ...{ systems: RAM, against: CRC, figure: 'IOPS', factor: 0.8 },
    applies: (row) => isMac(row) && (FOUR_K_32(row) || SEQUENTIAL(row)),
  },
  {
    ...{ systems: ['outrigger-file'], figure: 'IOPS', factor: 0.95, applies: FOUR_K_32 },
    against: { what: 'the local file', systems: ['local-file'] },
  },
  {
    ...{ systems: ['outrigger-vm'], figure: 'p50', factor: 1.3, applies: ONE_VM },
    against: { what: 'the local qemu-storage-daemon', systems: ['qsd-vm-memory'] },
  },
  {
    ...{ systems: ['outrigger-vm-file'], figure: 'p50', factor: 1.3, applies: ONE_VM },
    against: { what: 'the local qemu-storage-daemon', systems: ['qsd-vm'] },
  },
];

const isTime = (figure: Figure) => figure === 'p50' || figure === 'CPU per I/O';

function figureOf(row: Row, figure: Figure): number {
  switch (figure) {
    case 'p50':
      return row.p50_us;
    case 'IOPS':
      return row.iops;
    case 'MB/s':
      return row.mbps;
    case 'CPU per I/O':
      return cpuUsPerIo(row);
  }
}

export interface Verdict {
  met: boolean;
  ratio: number;
  /** "p50 at most 1.3x of the local qemu-storage-daemon" */
  aim: string;
  /** Whose row: "outrigger-vm mac MTU 9000, 4 KiB randread, depth 1" */
  row: string;
  system: string;
  integrity: Integrity;
  mtu: number;
  /** "4 KiB randread, depth 1" */
  workload: string;
}

/** Every aim on every row for which the same run has what to compare with. */
export function judge(rows: readonly Row[]): Verdict[] {
  return AIMS.flatMap((aim) =>
    rows
      .filter((row) => aim.systems.includes(row.system) && aim.applies(row))
      .flatMap((row) => {
        const peers = rows.filter(
          (other) =>
            aim.against.systems.includes(other.system) &&
            sameWorkload(other, row) &&
            other.vms === row.vms &&
            (aim.against.integrity === undefined || other.integrity === aim.against.integrity) &&
            (other.mtu === row.mtu || other.mtu === 0),
        );
        return peers.length === 0 ? [] : [verdict(aim, row, peers)];
      }),
  );
}

function verdict({ figure, factor, against }: Aim, row: Row, peers: readonly Row[]): Verdict {
  const others = peers.map((peer) => figureOf(peer, figure));
  const ratio = figureOf(row, figure) / (isTime(figure) ? Math.min(...others) : Math.max(...others));
  const bound = `${isTime(figure) ? 'at most' : 'at least'} ${Number(factor.toFixed(2))}x`;
  return {
    met: isTime(figure) ? ratio <= factor : ratio >= factor,
    ratio,
    aim: `${figure} ${bound} of ${against.what}`,
    row: `${describeSystem(row)}, ${describeWorkload(row)}`,
    system: row.system,
    integrity: row.integrity,
    mtu: row.mtu,
    workload: describeWorkload(row),
  };
}

export function formatAims(rows: readonly Row[]): string {
  const lines = judge(rows).map(
    ({ met, aim, ratio, row }) => `  ${met ? 'met   ' : 'missed'}  ${aim}: ${ratio.toFixed(2)}x  (${row})`,
  );
  return lines.length === 0 ? '' : `\nAims:\n${lines.join('\n')}\n`;
}
