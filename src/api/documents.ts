// The parts of the documentation that are generated from the code: docs/openapi.json from the routes,
// docs/errors.md and docs/events.md from their registries, the key tables of docs/control.md from the configuration
// schemas.
import type { TSchema } from '@sinclair/typebox';
import { HostConfig, IohvConfig } from '../config/schema.js';
import { ERRORS, type ErrorEntry, EXIT } from '../errors.js';
import { EVENT_TEXT_MAX, EVENTS, EVENTS_CAPACITY, type EventEntry } from '../telemetry/events.js';
import { type IohvParts, iohvRoutes } from './iohv-routes.js';
import { SHARED_SCHEMAS } from './schemas.js';
import { buildServer } from './server.js';

export async function openapiJson(version: string): Promise<string> {
  const silent = { info() {}, warn() {}, error() {} };
  // Routes use their parts when a request comes, and this server gets none.
  const parts = { views: {} } as IohvParts;
  const app = await buildServer({
    title: 'Outrigger I/O hypervisor',
    version,
    log: silent,
    schemas: SHARED_SCHEMAS.iohv,
    routes: iohvRoutes(parts),
  });
  const document = app.swagger();
  await app.close();
  return `${JSON.stringify(document, null, 2)}\n`;
}

export function errorsMarkdown(): string {
  const entries = Object.entries(ERRORS) as [string, ErrorEntry][];
  const sections = entries.map(([code, { status, exit, title, hint }]) => {
    const where = status === 0 ? `exit code ${exit}` : `HTTP ${status}, exit code ${exit}`;
    return `## ${code}\n\n${title} (${where}).\n\nTo mend it: ${hint.replace(/\{(\w+)\}/g, (_, key: string) => key.toUpperCase())}.\n`;
  });
  return `# Errors

Generated from \`src/errors.ts\`; do not edit.

The REST interface answers an error as an RFC 9457 problem (\`application/problem+json\`): \`type\` (an address of
the same interface that explains the kind), \`title\`, \`status\`, \`detail\` (what is wrong in this case), and our own
\`code\` (the headings below) and \`hint\` (how to mend it, with the names of this case filled in). The command line
prints \`error: DETAIL (CODE)\` and \`hint: HINT\` to stderr.

Exit codes of \`outrigger\`: ${EXIT.ok} done, ${EXIT.refused} refused, ${EXIT.usage} wrong command line, ${EXIT.unreachable} no supervisor reached, ${EXIT.config} wrong configuration.

${sections.join('\n')}`;
}

export function eventsMarkdown(): string {
  const entries = Object.entries(EVENTS) as [string, EventEntry][];
  const rows = entries.map(([kind, { text, fields }]) => {
    const names = fields.map((field) => `\`${field}\``).join(', ');
    return `| \`${kind}\` | ${names} | ${text} |\n`;
  });
  return `# Events

Generated from \`src/telemetry/events.ts\`; do not edit.

Every line of a supervisor's log is an event. The supervisor holds the last ${EVENTS_CAPACITY} of them in memory;
\`outrigger events\` and \`GET /v1/events\` ([control.md](control.md)) show them. A field without a value is left out; texts
are cut after ${EVENT_TEXT_MAX} characters.

| kind | fields | meaning |
|---|---|---|
${rows.join('')}`;
}

interface Key {
  path: string;
  schema: TSchema;
  required: boolean;
}

function keysOf(schema: TSchema, prefix: string): Key[] {
  const properties = (schema.properties ?? {}) as Record<string, TSchema>;
  const required = (schema.required ?? []) as string[];
  return Object.entries(properties).flatMap(([name, property]) => {
    const path = `${prefix}${name}`;
    if (property.type === 'object') {
      return keysOf(property, `${path}.`);
    }
    const key = { path, schema: property, required: required.includes(name) && property.default === undefined };
    return property.type === 'array' ? [key, ...keysOf(property.items as TSchema, `${path}[].`)] : [key];
  });
}

/** A table of every key of a configuration file. */
export function configTable(role: 'iohv' | 'host'): string {
  const keys = keysOf(role === 'iohv' ? IohvConfig : HostConfig, '');
  const rows = keys.map(({ path, schema, required }) => {
    const value = required ? 'required' : schema.default === undefined ? '' : `\`${JSON.stringify(schema.default)}\``;
    return `| \`${path}\` | ${value} | ${schema.description ?? ''} |\n`;
  });
  return `| key | default | meaning |\n|---|---|---|\n${rows.join('')}`;
}

/** Replaces what stands between `<!-- NAME -->` and `<!-- end -->`. */
export function fillSection(text: string, name: string, content: string): string {
  const start = `<!-- ${name} -->\n`;
  const from = text.indexOf(start);
  const to = text.indexOf('<!-- end -->', from);
  if (from === -1 || to === -1) {
    throw new Error(`no section ${name}`);
  }
  return text.slice(0, from + start.length) + content + text.slice(to);
}
