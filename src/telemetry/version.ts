// Which version this is: one truth, package.json.
import { readFileSync } from 'node:fs';

/** The version of this package, from package.json (three folders up from dist/src/telemetry). */
export function readVersion(): string {
  const file = new URL('../../../package.json', import.meta.url);
  const parsed: unknown = JSON.parse(readFileSync(file, 'utf8'));
  if (typeof parsed === 'object' && parsed !== null && 'version' in parsed && typeof parsed.version === 'string') {
    return parsed.version;
  }
  throw new Error(`no version in ${file.pathname}`);
}
