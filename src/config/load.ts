// Reads a configuration file and tells everything that is wrong with it at once, each problem with its
// line, column, key and how to mend it. YAML syntax first, then the schema, then what only the machine
// knows (checks.ts); the later stages run only on what passed the earlier ones.
import { readFileSync } from 'node:fs';
import type { TObject } from '@sinclair/typebox';
import { Ajv, type ErrorObject } from 'ajv';
import { type Document, isMap, isNode, isPair, isScalar, LineCounter, type Node, parseDocument } from 'yaml';
import { errnoOf, messageOf } from '../errors.js';
import { type Check, checkHost, checkIohv, systemProbe } from './checks.js';
import { ConfigError, formatPath, type KeyPath, type Problem } from './problem.js';
import { HostConfig, IohvConfig, type Role } from './schema.js';
import { suggest } from './suggest.js';

/** Loads and checks iohv.yaml. Throws ConfigError. */
export function loadIohvConfig(file: string): IohvConfig {
  return load<IohvConfig>(file, IohvConfig, (config) => checkIohv(config, systemProbe));
}

/** Loads and checks host.yaml. Throws ConfigError. */
export function loadHostConfig(file: string): HostConfig {
  return load<HostConfig>(file, HostConfig, (config) => checkHost(config, systemProbe));
}

/** Which role a file is for, judged by its keys: host.yaml names the I/O hypervisor. */
export function guessRole(file: string): Role {
  const document = new Source(file).document;
  return isMap(document.contents) && (document.has('iohv') || document.has('name')) ? 'host' : 'iohv';
}

/** The text of a file and where its nodes stand. */
class Source {
  readonly file: string;
  readonly document: Document.Parsed;
  private readonly lines = new LineCounter();

  constructor(file: string) {
    this.file = file;
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch (error) {
      const reason = errnoOf(error) === 'ENOENT' ? 'the file does not exist' : messageOf(error);
      throw new ConfigError(file, [
        {
          line: 1,
          column: 1,
          path: '',
          message: reason,
          hint: 'examples/iohv.yaml and examples/host.yaml are templates',
        },
      ]);
    }
    this.document = parseDocument(text, { lineCounter: this.lines, prettyErrors: false });
    if (this.document.errors.length > 0) {
      throw new ConfigError(
        file,
        this.document.errors.map((error) => ({
          ...this.at(error.pos[0]),
          path: '',
          message: `not YAML: ${error.message}`,
          hint: 'check indentation, quotes and colons at this place',
        })),
      );
    }
  }

  private at(offset: number): { line: number; column: number } {
    const { line, col } = this.lines.linePos(offset);
    return { line: Math.max(line, 1), column: Math.max(col, 1) };
  }

  /** Where the value at `path` stands, or the nearest thing around it that stands in the file. */
  locateValue(path: KeyPath): { line: number; column: number } {
    for (let depth = path.length; depth >= 0; depth--) {
      const prefix = path.slice(0, depth);
      const node: unknown = depth === 0 ? this.document.contents : this.document.getIn(prefix, true);
      if (isNode(node) && node.range) {
        // A missing or defaulted key: the name of its section is a better place than its first key.
        return depth < path.length && depth > 0 ? this.locateKey(prefix) : this.at(node.range[0]);
      }
    }
    return { line: 1, column: 1 };
  }

  /** Where the key (not its value) at `path` stands. */
  locateKey(path: KeyPath): { line: number; column: number } {
    const key = path[path.length - 1];
    const parent: unknown = path.length === 1 ? this.document.contents : this.document.getIn(path.slice(0, -1), true);
    if (isMap(parent)) {
      const pair = parent.items.find((item) => isPair(item) && isScalar(item.key) && String(item.key.value) === key);
      const node = pair?.key as Node | undefined;
      if (node?.range) {
        return this.at(node.range[0]);
      }
    }
    const node: unknown = this.document.getIn(path, true);
    return isNode(node) && node.range ? this.at(node.range[0]) : { line: 1, column: 1 };
  }
}

function load<T>(file: string, schema: TObject, check: (config: T) => Check[]): T {
  const source = new Source(file);
  const config: unknown = source.document.toJS() ?? {};
  // verbose: errors carry the schema they come from. Unknown keywords (`expect`) are ours.
  const ajv = new Ajv({ allErrors: true, useDefaults: true, verbose: true, strict: false });
  const validate = ajv.compile(schema);
  if (!validate(config)) {
    const problems = (validate.errors ?? []).filter(isPrimary).map((error) => explain(source, error));
    throw new ConfigError(file, inOrder(problems));
  }
  const problems = check(config as T).map(({ path, message, hint }) => ({
    ...source.locateValue(path),
    path: formatPath(path),
    message,
    hint,
  }));
  if (problems.length > 0) {
    throw new ConfigError(file, inOrder(problems));
  }
  return config as T;
}

function inOrder(problems: Problem[]): Problem[] {
  return problems.sort((a, b) => a.line - b.line || a.column - b.column);
}

/** A union reports each of its branches as well as itself: only the latter is told. */
function isPrimary(error: ErrorObject): boolean {
  return !error.schemaPath.includes('/anyOf/');
}

function pointerToPath(pointer: string): (string | number)[] {
  return pointer
    .split('/')
    .slice(1)
    .map((part) => part.replace(/~1/g, '/').replace(/~0/g, '~'))
    .map((part) => (/^\d+$/.test(part) ? Number(part) : part));
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** Turns one complaint of the schema into a sentence, a place and a remedy. */
function explain(source: Source, error: ErrorObject): Problem {
  const path = pointerToPath(error.instancePath);
  const schema = (error.parentSchema ?? {}) as { properties?: object; expect?: string; description?: string };
  const about = schema.description ?? 'see docs/control.md';
  const value = show(error.data);
  const problem = (at: KeyPath, message: string, hint: string, place = source.locateValue(at)): Problem => ({
    ...place,
    path: formatPath(at),
    message,
    hint,
  });
  switch (error.keyword) {
    case 'additionalProperties': {
      const key = String(error.params.additionalProperty);
      const known = Object.keys(schema.properties ?? {});
      const meant = suggest(key, known);
      const hint = meant ? `did you mean \`${meant}\`?` : `keys allowed here: ${known.join(', ')}`;
      return problem([...path, key], `unknown key \`${key}\``, hint, source.locateKey([...path, key]));
    }
    case 'required': {
      const key = String(error.params.missingProperty);
      const property = (schema.properties as Record<string, { description?: string }> | undefined)?.[key];
      return problem(
        [...path, key],
        `the key \`${key}\` is missing`,
        `add \`${key}:\` (${property?.description ?? ''})`,
      );
    }
    case 'enum': {
      const allowed = (error.params.allowedValues as string[]).map(String);
      const meant = suggest(String(error.data), allowed);
      return problem(
        path,
        `${value} is not one of ${allowed.join(', ')}`,
        meant ? `did you mean \`${meant}\`?` : `choose one of ${allowed.join(', ')}`,
      );
    }
    case 'type':
      return problem(path, `expected ${withArticle(String(error.params.type))}, found ${value}`, about);
    case 'minimum':
    case 'maximum':
      return problem(path, `${value} is out of range (${error.message})`, about);
    default:
      return problem(path, `${value} is not ${schema.expect ?? `valid (${error.message})`}`, about);
  }
}

function withArticle(type: string): string {
  const names: Record<string, string> = { object: 'a section of keys', array: 'a list', integer: 'an integer' };
  return names[type] ?? `a ${type}`;
}
