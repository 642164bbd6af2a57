// Pre-shared keys: 32 bytes, in a text file as base64 or hexadecimal, readable by its owner only.
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { errnoOf, messageOf } from '../errors.js';

export const KEY_BYTES = 32;

/** What is wrong with a file and how to mend it. */
export interface FileProblem {
  message: string;
  hint: string;
}

export type FileResult<T> = { ok: true; value: T } | { ok: false; problem: FileProblem };

const failed = (message: string, hint: string) => ({ ok: false as const, problem: { message, hint } });

/** Reads a text file. `secret`: refuses one that others than the owner may read. */
export function readTextFile(file: string, secret: boolean): FileResult<string> {
  try {
    const stat = statSync(file);
    if (!stat.isFile()) {
      return failed(`${file} is not a regular file`, 'name a file');
    }
    if (secret && (stat.mode & 0o077) !== 0) {
      const mode = (stat.mode & 0o777).toString(8).padStart(4, '0');
      return failed(`${file} can be read by others than its owner (mode ${mode})`, `run: chmod 600 ${file}`);
    }
    return { ok: true, value: readFileSync(file, 'utf8') };
  } catch (error) {
    const code = errnoOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      return failed(`${file} does not exist`, 'check the path');
    }
    return failed(
      `${file} cannot be read: ${code || messageOf(error)}`,
      'check its permissions and who runs outrigger',
    );
  }
}

/** The 32 bytes of a key's text, or undefined. */
export function parseKey(text: string): Buffer | undefined {
  const trimmed = text.trim();
  if (/^[0-9A-Fa-f]{64}$/.test(trimmed)) {
    return Buffer.from(trimmed, 'hex');
  }
  if (!/^[A-Za-z0-9+/]{43}=?$/.test(trimmed)) {
    return undefined;
  }
  const key = Buffer.from(trimmed, 'base64');
  return key.length === KEY_BYTES ? key : undefined;
}

export function readKeyFile(file: string): FileResult<Buffer> {
  const text = readTextFile(file, true);
  if (!text.ok) {
    return text.problem.message.endsWith('does not exist')
      ? failed(text.problem.message, `make one with: outrigger key generate ${file}   (and copy it to the other side)`)
      : text;
  }
  const key = parseKey(text.value);
  return key === undefined
    ? failed(`${file} holds no key`, 'a key is 32 bytes as base64 (44 characters) or hexadecimal (64 digits)')
    : { ok: true, value: key };
}

export function generateKey(): string {
  return randomBytes(KEY_BYTES).toString('base64');
}

/** Writes a secret to a new file of mode 0600; throws EEXIST rather than overwrite one. */
export function writeSecret(file: string, text: string): void {
  writeFileSync(file, text, { mode: 0o600, flag: 'wx' });
}

/** A short name for a key that does not tell the key: whether the engine's is the configured one. */
export function keyId(key: Buffer): string {
  return createHash('sha256').update('outrigger key id').update(key).digest('hex').slice(0, 16);
}
