// Which code an engine runs and with which settings, in a form that two processes can compare.
import { createHash } from 'node:crypto';
import { readdirSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ADDON_FILE } from '../native/addon.js';
import type { EngineConfig } from '../supervisor/protocol.js';

const DIGITS = 12;

const digest = (text: string) => createHash('sha256').update(text).digest('hex');

/**
 * The build that an engine started now as `program` would run: its own code and the addon, by size and time of
 * the files. A missing file counts as one more state of the build, so that this never fails.
 */
export function buildOf(program: string): string {
  const scripts = (folder: string) =>
    readdirSync(folder).flatMap((name) => (/\.js$/.test(name) ? [`${folder}/${name}`] : []));
  const native = dirname(fileURLToPath(new URL('../native/addon.js', import.meta.url)));
  const files = [ADDON_FILE, ...scripts(dirname(program)).sort(), ...scripts(native).sort()];
  const states = files.map((file) => {
    const stat = statSync(file, { throwIfNoEntry: false });
    return `${file} ${stat?.size} ${stat?.mtimeMs}`;
  });
  return digest(states.join('\n')).slice(0, DIGITS);
}

/** Tells settings apart and does not tell them: they hold a key. */
export function settingsOf(config: EngineConfig): string {
  return digest(`outrigger engine settings ${JSON.stringify(config)}`);
}
