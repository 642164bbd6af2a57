// Bearer tokens of the HTTPS interface. The server keeps only their SHA-256: a token is 256 random bits,
// so a plain hash gives nothing away. One `NAME SHA256` per line; `#` starts a comment.
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { type FileResult, readTextFile } from './keys.js';

export interface TokenEntry {
  name: string;
  sha256: Buffer;
}

export function hashToken(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}

export function generateToken(): string {
  return randomBytes(32).toString('base64url');
}

export function readTokens(file: string): FileResult<TokenEntry[]> {
  const text = readTextFile(file, true);
  if (!text.ok) {
    return text;
  }
  const entries: TokenEntry[] = [];
  for (const [index, raw] of text.value.split('\n').entries()) {
    const line = raw.replace(/#.*/, '').trim();
    if (line === '') {
      continue;
    }
    const match = /^(\S+)\s+([0-9a-f]{64})$/i.exec(line);
    if (match === null) {
      const problem = {
        message: `${file}:${index + 1} is not \`NAME SHA256\``,
        hint: 'let `outrigger token add` write the file',
      };
      return { ok: false, problem };
    }
    entries.push({ name: match[1] ?? '', sha256: Buffer.from(match[2] ?? '', 'hex') });
  }
  return { ok: true, value: entries };
}

/** The name of the token's owner, or undefined. Takes the same time wherever the tokens differ. */
export function findToken(entries: readonly TokenEntry[], token: string): string | undefined {
  const hash = hashToken(token);
  let found: string | undefined;
  for (const entry of entries) {
    if (timingSafeEqual(entry.sha256, hash)) {
      found = entry.name;
    }
  }
  return found;
}
