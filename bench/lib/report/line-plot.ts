// Lines over a common horizontal axis, with a legend beside them in the order in which they end.
import { type Scale, short } from './scale.js';
import { drawMarker, type Style } from './style.js';
import { element, FAINT, GRID, hint, line, picture, text } from './svg.js';

export interface Series {
  name: string;
  style: Style;
  /** In the order of x. Those with a hint get a marker that shows it. */
  points: readonly { x: number; y: number; hint?: string }[];
}

export interface Axis {
  label: string;
  scale(from: number, to: number): Scale;
  show?(value: number): string;
}

export interface LinePlot {
  title: string;
  x: Axis;
  y: Axis;
  series: readonly Series[];
}

const WIDTH = 760;
const LEFT = 64;
const TOP = 40;
const PLOT_WIDTH = 440;
const PLOT_HEIGHT = 300;
const BOTTOM = 52;
const LEGEND_LINE = 19;

export function linePlot({ title, x, y, series }: LinePlot): string {
  const height = TOP + Math.max(PLOT_HEIGHT, series.length * LEGEND_LINE) + BOTTOM;
  const floor = TOP + PLOT_HEIGHT;
  const across = x.scale(LEFT, LEFT + PLOT_WIDTH);
  const up = y.scale(floor, TOP);
  const showX = x.show ?? short;
  const showY = y.show ?? short;
  return picture(
    WIDTH,
    height,
    title,
    ...up.ticks.flatMap((tick) => [
      line(LEFT, up.at(tick), LEFT + PLOT_WIDTH, up.at(tick), { stroke: GRID }),
      text(LEFT - 8, up.at(tick) + 4, showY(tick), { 'text-anchor': 'end', fill: FAINT }),
    ]),
    ...across.ticks.flatMap((tick) => [
      line(across.at(tick), floor, across.at(tick), floor + 4, { stroke: FAINT }),
      text(across.at(tick), floor + 18, showX(tick), { 'text-anchor': 'middle', fill: FAINT }),
    ]),
    line(LEFT, floor, LEFT + PLOT_WIDTH, floor, { stroke: FAINT }),
    text(LEFT + PLOT_WIDTH / 2, floor + 40, x.label, { 'text-anchor': 'middle' }),
    text(16, TOP + PLOT_HEIGHT / 2, y.label, {
      'text-anchor': 'middle',
      transform: `rotate(-90 16 ${TOP + PLOT_HEIGHT / 2})`,
    }),
    ...series.map((one) => drawSeries(one, across, up)),
    ...drawLegend(series, up),
  );
}

function drawSeries({ style, points }: Series, across: Scale, up: Scale): string {
  const places = points.map((point) => ({ ...point, px: across.at(point.x), py: up.at(point.y) }));
  const path = places
    .map(({ px, py }, index) => `${index === 0 ? 'M' : 'L'}${px.toFixed(1)} ${py.toFixed(1)}`)
    .join('');
  return element(
    'g',
    {},
    element('path', {
      ...{ d: path, fill: 'none', stroke: style.colour, 'stroke-width': 2, 'stroke-linejoin': 'round' },
      'stroke-dasharray': style.dash,
    }),
    ...places.flatMap(({ px, py, hint: words }) =>
      words === undefined ? [] : [drawMarker(style, px, py, hint(words))],
    ),
  );
}

function drawLegend(series: readonly Series[], up: Scale): string[] {
  const end = ({ points }: Series) => up.at(points.at(-1)?.y ?? 1);
  const left = LEFT + PLOT_WIDTH + 22;
  return [...series]
    .sort((a, b) => end(a) - end(b))
    .flatMap(({ name, style }, index) => {
      const y = TOP + 8 + index * LEGEND_LINE;
      return [
        line(left, y, left + 28, y, { stroke: style.colour, 'stroke-width': 2, 'stroke-dasharray': style.dash }),
        drawMarker(style, left + 14, y),
        text(left + 36, y + 4, name),
      ];
    });
}
