// Writes the generated documentation: node dist/src/api/write-docs.js
import { readFileSync, writeFileSync } from 'node:fs';
import { readVersion } from '../telemetry/version.js';
import { configTable, errorsMarkdown, eventsMarkdown, fillSection, openapiJson } from './documents.js';

const docs = new URL('../../../docs/', import.meta.url);
const control = new URL('control.md', docs);

writeFileSync(new URL('openapi.json', docs), await openapiJson(readVersion()));
writeFileSync(new URL('errors.md', docs), errorsMarkdown());
writeFileSync(new URL('events.md', docs), eventsMarkdown());
let text = readFileSync(control, 'utf8');
for (const role of ['iohv', 'host'] as const) {
  text = fillSection(text, `${role}.yaml`, configTable(role));
}
writeFileSync(control, text);
