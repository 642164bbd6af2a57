// How a system looks in every plot. Colours are those of Okabe and Ito, which people with any colour vision tell
// apart; a family of systems has one, and its members differ by marker, their protection by the line's dashes.
import type { RowKey } from '../row.js';
import { element } from './svg.js';

export type Marker = 'circle' | 'square' | 'triangle' | 'diamond';

export interface Style {
  colour: string;
  marker: Marker;
  dash: string | undefined;
}

const BLUE = '#0072b2';
const VERMILION = '#d55e00';
const GREEN = '#009e73';
const PURPLE = '#b0568c';
const ORANGE = '#e69f00';
const GREY = '#555555';

const SYSTEM_STYLES: Record<string, readonly [colour: string, marker: Marker]> = {
  'outrigger-ram': [BLUE, 'circle'],
  'outrigger-file': [BLUE, 'square'],
  'outrigger-cached': [BLUE, 'diamond'],
  'outrigger-ram-xdp': [BLUE, 'triangle'],
  'outrigger-vm': [VERMILION, 'circle'],
  'outrigger-vm-file': [VERMILION, 'square'],
  'qsd-vm': [GREEN, 'square'],
  'qsd-vm-memory': [GREEN, 'circle'],
  'qsd-vm-memory-shared': [GREEN, 'triangle'],
  'qemu-nbd': [PURPLE, 'circle'],
  'nbdkit-file': [PURPLE, 'square'],
  'nbdkit-memory': [PURPLE, 'triangle'],
  'qemu-nbd-disk': [PURPLE, 'diamond'],
  'nbdkit-file-disk': [PURPLE, 'square'],
  'local-file': [ORANGE, 'square'],
  'port-echo': [GREY, 'triangle'],
  'port-echo-xdp': [GREY, 'square'],
  'tcp-echo': [GREY, 'diamond'],
};

const DASHES: Record<string, string | undefined> = { crc: '6 3', encrypt: '2 3' };

/** The marker of a system with several workers. */
const SEVERAL_WORKERS: Record<Marker, Marker> = {
  circle: 'diamond',
  square: 'triangle',
  triangle: 'square',
  diamond: 'circle',
};

/** Where the volume is decides what a system is compared with. */
const ON_DISK = ['outrigger-file', 'outrigger-vm-file', 'qsd-vm', 'local-file', 'qemu-nbd-disk', 'nbdkit-file-disk'];

export function isOnDisk({ system }: Pick<RowKey, 'system'>): boolean {
  return ON_DISK.includes(system);
}

export function styleOf({ system, integrity, workers }: Pick<RowKey, 'system' | 'integrity' | 'workers'>): Style {
  const [colour, marker] = SYSTEM_STYLES[system] ?? [GREY, 'circle'];
  return { colour, marker: workers > 1 ? SEVERAL_WORKERS[marker] : marker, dash: DASHES[integrity] };
}

const SIZE = 4;

export function drawMarker({ colour, marker }: Style, x: number, y: number, ...content: string[]): string {
  const s = SIZE;
  const paint = { fill: colour, stroke: '#fff', 'stroke-width': 0.8 };
  switch (marker) {
    case 'circle':
      return element('circle', { cx: x, cy: y, r: s, ...paint }, ...content);
    case 'square':
      return element('rect', { x: x - s, y: y - s, width: 2 * s, height: 2 * s, ...paint }, ...content);
    case 'triangle':
      return element('path', { d: polygon(x, y, [0, -s - 1], [s + 1, s], [-s - 1, s]), ...paint }, ...content);
    case 'diamond':
      return element(
        'path',
        { d: polygon(x, y, [0, -s - 1], [s + 1, 0], [0, s + 1], [-s - 1, 0]), ...paint },
        ...content,
      );
  }
}

function polygon(x: number, y: number, ...corners: (readonly [number, number])[]): string {
  return `${corners.map(([dx, dy], index) => `${index === 0 ? 'M' : 'L'}${x + dx} ${y + dy}`).join('')}Z`;
}
