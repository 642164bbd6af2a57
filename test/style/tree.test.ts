// What no linter checks about the tree as a whole.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { repoRoot } from '../lab/paths.js';
import { findFiles } from '../runner/files.js';

const LINES_MAX = 800;
const FOLDERS = ['native', 'src', 'bench', 'test', 'demo', 'guest', 'bin', 'docs', '.ci'];
const TEXT = ['.c', '.h', '.cc', '.ts', '.sh', '.md', '.txt', '.json', '.yaml', '.service'];
const CODE = ['.c', '.h', '.cc', '.ts'];

const lines = (path: string) => readFileSync(`${repoRoot}/${path}`, 'utf8').split('\n');

/** "path:line: text" for every line that matches. */
function findLines(paths: readonly string[], pattern: RegExp): string[] {
  return paths.flatMap((path) =>
    lines(path).flatMap((text, i) => (pattern.test(text) ? [`${path}:${i + 1}: ${text.trim()}`] : [])),
  );
}

test(`no source file is longer than ${LINES_MAX} lines`, () => {
  const long = findFiles(FOLDERS, CODE).filter((path) => lines(path).length > LINES_MAX + 1);
  assert.deepEqual(long, []);
});

test('no file names a place that only one machine has', () => {
  // Home directories and checkouts; system paths such as /run or /var/lib are everyone's.
  const texts = findFiles(FOLDERS, TEXT).filter((path) => !path.startsWith('test/style/'));
  assert.deepEqual(findLines(texts, /(?<![\w.$}])\/(home\/[a-z]|root\/|work\/|Users\/)/), []);
});

test('no file puts off work to later', () => {
  const texts = findFiles(FOLDERS, TEXT).filter((path) => !path.startsWith('test/style/'));
  assert.deepEqual(findLines(texts, /\b(TODO|FIXME|XXX)\b/), []);
});

test('every source file begins with what it is about', () => {
  // A header speaks for its source; a unit test is about the source that it mirrors.
  const isComment = /^(\/\/|\/\*|#!)/;
  const speaks = (path: string) => isComment.test(lines(path)[0] ?? '');
  const all = findFiles(['native', 'src', 'bench', 'test', 'demo'], CODE);
  const silent = all.filter((path) => {
    const header = path.replace(/\.cc?$/, '.h');
    return (
      !speaks(path) && !path.startsWith('test/unit/') && !(header !== path && all.includes(header) && speaks(header))
    );
  });
  assert.deepEqual(silent, []);
});

test('no text ends its lines with blanks or mixes in carriage returns', () => {
  const texts = findFiles(FOLDERS, TEXT).filter((path) => !path.endsWith('.md'));
  assert.deepEqual(findLines(texts, /[ \t\r]$/), []);
});

test('every header has its guard', () => {
  const bare = findFiles(['native', 'test', 'bench'], ['.h']).filter(
    (path) => !/^(#pragma once|#ifndef (\w+_H)\n#define \2)$/m.test(readFileSync(`${repoRoot}/${path}`, 'utf8')),
  );
  assert.deepEqual(bare, []);
});
