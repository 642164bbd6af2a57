// The generated documentation equals what the code would generate: src/api/write-docs.ts writes it.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { configTable, errorsMarkdown, eventsMarkdown, fillSection, openapiJson } from '../../../src/api/documents.js';
import { ERRORS, EXIT, refuse } from '../../../src/errors.js';
import { EVENTS } from '../../../src/telemetry/events.js';
import { readVersion } from '../../../src/telemetry/version.js';
import { ROOT } from './support.js';

const STALE = 'stale: run node dist/src/api/write-docs.js';
const doc = (name: string) => readFileSync(`${ROOT}docs/${name}`, 'utf8');

test('docs/openapi.json is what the routes say', async () => {
  const generated = await openapiJson(readVersion());
  assert.equal(doc('openapi.json'), generated, STALE);
  const { paths, components } = JSON.parse(generated) as {
    paths: Record<string, Record<string, { operationId?: string; responses: object }>>;
    components: { schemas: Record<string, unknown> };
  };
  const ids = Object.values(paths).flatMap((methods) => Object.values(methods).map(({ operationId }) => operationId));
  assert.equal(new Set(ids).size, ids.length);
  assert.ok(!ids.includes(undefined), 'every operation has a name');
  const references = generated.match(/#\/components\/schemas\/\w+/g) ?? [];
  for (const reference of new Set(references)) {
    assert.ok(components.schemas[reference.split('/').at(-1) ?? ''], reference);
  }
});

test('docs/errors.md is what the registry says', () => {
  assert.equal(doc('errors.md'), errorsMarkdown(), STALE);
});

test('docs/events.md is what the registry says', () => {
  assert.equal(doc('events.md'), eventsMarkdown(), STALE);
});

test('docs/control.md lists every key of the configuration', () => {
  const control = doc('control.md');
  for (const role of ['iohv', 'host'] as const) {
    assert.equal(fillSection(control, `${role}.yaml`, configTable(role)), control, STALE);
  }
});

test('docs/control.md names every address and every exit code', () => {
  const control = doc('control.md');
  const { paths } = JSON.parse(doc('openapi.json')) as { paths: Record<string, object> };
  for (const path of Object.keys(paths)) {
    const written = path.replace(/\{(\w+)\}/g, (_, name: string) => name.toUpperCase());
    assert.ok(control.includes(written), path);
  }
  for (const code of Object.values(EXIT)) {
    assert.ok(control.includes(`| ${code} |`), String(code));
  }
});

/** All of the compiled program but one file. */
function sourcesWithout(file: string): string {
  return readdirSync(`${ROOT}dist/src`, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.js') && name !== file)
    .map((name) => readFileSync(`${ROOT}dist/src/${name}`, 'utf8'))
    .join('\n');
}

test('every event of the registry can happen', () => {
  const sources = sourcesWithout('');
  for (const kind of Object.keys(EVENTS)) {
    assert.match(sources, new RegExp(`(log\\.(info|warn|error)\\(|toEvent\\(.*)'${kind}'`), kind);
  }
});

test('every error of the registry is used, with all values that its hint needs', () => {
  const sources = sourcesWithout('errors.js');
  for (const [code, { hint, exit }] of Object.entries(ERRORS)) {
    assert.ok(new RegExp(`'${code}'|ERRORS\\.${code}\\b`).test(sources), `${code} is used`);
    assert.ok(Object.values<number>(EXIT).includes(exit));
    for (const [, name] of hint.matchAll(/\{(\w+)\}/g)) {
      const calls = [...sources.matchAll(new RegExp(`refuse\\('${code}',[^;]*;`, 'g'))].map(([call]) => call);
      for (const call of calls) {
        assert.match(call, new RegExp(`\\b${name}\\b`), `${code} gives ${name}: ${call}`);
      }
    }
  }
});

test('a hint is filled with the values of the case', () => {
  const error = refuse('vm_on_other_host', 'x', { vm: 'web', host: 'h1' });
  assert.equal(error.hint, 'attach to --host h1, or detach the VM there first: `outrigger detach web`');
  assert.deepEqual([error.entry.status, error.message], [409, 'x']);
});
