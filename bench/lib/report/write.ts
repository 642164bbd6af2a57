// `--report DIR`: the page, and each plot as a file of its own.
import { mkdirSync, writeFileSync } from 'node:fs';
import { judge } from '../aims.js';
import type { BlockResult } from '../result.js';
import { formatPage, mergeRows } from './page.js';
import { plotsOf } from './plots.js';

/** Returns the page's file. */
export function writeReport(dir: string, results: readonly BlockResult[]): string {
  const rows = mergeRows(results);
  const plots = plotsOf(rows);
  mkdirSync(dir, { recursive: true });
  for (const { file, svg } of plots) {
    writeFileSync(`${dir}/${file}.svg`, `${svg}\n`);
  }
  const page = `${dir}/index.html`;
  writeFileSync(page, formatPage(results, rows, plots, judge(rows)));
  return page;
}
