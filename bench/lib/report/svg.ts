// SVG as text.

export type Attributes = Readonly<Record<string, string | number | undefined>>;

export function escapeXml(text: string): string {
  const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
  return text.replace(/[&<>"']/g, (character) => entities[character] ?? '');
}

/** `content` is markup, not text. */
export function element(name: string, attributes: Attributes, ...content: string[]): string {
  const words = Object.entries(attributes)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => ` ${key}="${escapeXml(typeof value === 'number' ? fixed(value) : String(value))}"`);
  return `<${name}${words.join('')}>${content.join('')}</${name}>`;
}

export function text(x: number, y: number, content: string, attributes: Attributes = {}): string {
  return element('text', { x, y, ...attributes }, escapeXml(content));
}

export function line(x1: number, y1: number, x2: number, y2: number, attributes: Attributes): string {
  return element('line', { x1, y1, x2, y2, ...attributes });
}

/** Shown by browsers when the pointer rests on what it is in. */
export function hint(content: string): string {
  return element('title', {}, escapeXml(content));
}

/** A picture by itself, also in a file of its own: it brings its font and its white ground. */
export function picture(width: number, height: number, title: string, ...content: string[]): string {
  return element(
    'svg',
    {
      xmlns: 'http://www.w3.org/2000/svg',
      ...{ viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': title },
      'font-family': "'DejaVu Sans', 'Helvetica Neue', Arial, sans-serif",
      'font-size': 12,
      fill: INK,
    },
    element('rect', { width, height, fill: '#fff' }),
    text(12, 22, title, { 'font-size': 15, 'font-weight': 600 }),
    ...content,
  );
}

export const INK = '#222';
export const FAINT = '#666';
export const GRID = '#ddd';

function fixed(value: number): string {
  return String(Number(value.toFixed(2)));
}
