// What every server of the control interface has in common, whatever its routes and whatever it listens on:
// schemas, problem responses, the OpenAPI document, the token check, one log line per change.
import { createServer } from 'node:https';
import swagger from '@fastify/swagger';
import { type TSchema, Type } from '@sinclair/typebox';
import Fastify, { type FastifyError, type FastifyInstance, type FastifyServerFactory } from 'fastify';
import { suggest } from '../config/suggest.js';
import { findToken, type TokenEntry } from '../config/tokens.js';
import { ERRORS, type ErrorCode, listNames, messageOf, OutriggerError, problemType, refuse } from '../errors.js';
import { EngineCommandError, EngineGoneError } from '../supervisor/engine-client.js';
import type { Logger } from '../telemetry/log.js';
import type { Problem } from './schemas.js';

export interface ServerOptions {
  title: string;
  version: string;
  log: Logger;
  schemas: readonly TSchema[];
  /** The routes under /v1 and /metrics. */
  routes(app: FastifyInstance): void;
  /** Present: HTTPS, and every request needs one of the tokens. */
  https?: { cert: string; key: string; tokens(): readonly TokenEntry[] };
}

const KEEP_ALIVE_MS = 60_000;

/** Answers of a route: its own, and problems for everything else. */
export function answers(success: Record<number, TSchema>): Record<string, TSchema> {
  return { ...success, default: Type.Ref('Problem#') };
}

export async function buildServer(options: ServerOptions): Promise<FastifyInstance> {
  const { https, log } = options;
  // An import takes as long as it takes; a client that is gone without a word is found by TCP.
  const lasting = { requestTimeout: 0, keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_MS };
  const serverFactory: FastifyServerFactory = (handler) =>
    createServer({ cert: https?.cert, key: https?.key, minVersion: 'TLSv1.2', ...lasting }, handler);
  const app = Fastify({
    logger: false,
    forceCloseConnections: true,
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false, allErrors: true, verbose: true } },
    ...(https === undefined ? {} : { serverFactory }),
  });
  for (const schema of options.schemas) {
    app.addSchema(schema);
  }
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: options.title,
        version: options.version,
        description: 'Errors are RFC 9457 problems; docs/errors.md explains every code.',
      },
      components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
      security: [{}, { token: [] }],
    },
    refResolver: {
      buildLocalReference: (json, _base, _fragment, index) =>
        typeof json.$id === 'string' ? json.$id : `def-${index}`,
    },
  });

  app.setErrorHandler((error: FastifyError, request, reply) => {
    const known = toOutriggerError(error);
    if (known.code === 'internal') {
      log.error('api.failed', { method: request.method, url: request.url, reason: error.stack ?? error.message });
    }
    const problem = toProblem(known);
    return reply.code(problem.status).type('application/problem+json').send(problem);
  });
  app.setNotFoundHandler((request) => {
    throw refuse('route_not_found', `there is nothing at ${request.method} ${request.url}`);
  });

  if (https !== undefined) {
    app.addHook('onRequest', async (request, reply) => {
      const token = /^Bearer (\S+)$/i.exec(request.headers.authorization ?? '')?.[1];
      if (token === undefined || findToken(https.tokens(), token) === undefined) {
        reply.header('www-authenticate', 'Bearer');
        throw refuse(
          'unauthorized',
          token === undefined ? 'the request has no bearer token' : 'the token is not known',
        );
      }
    });
  }
  app.addHook('onResponse', async (request, reply) => {
    if (request.method !== 'GET') {
      log.info('api.request', { method: request.method, url: request.url, status: reply.statusCode });
    }
  });

  await app.register(async (scope) => {
    options.routes(scope);
    addErrorRoutes(scope);
    scope.get('/v1/openapi.json', { schema: { hide: true } }, () => app.swagger());
  });
  await app.ready();
  return app;
}

/** Where the `type` of a problem leads. */
function addErrorRoutes(app: FastifyInstance): void {
  const info = (code: ErrorCode) => ({ code, ...ERRORS[code] });
  const codes = Object.keys(ERRORS) as ErrorCode[];
  app.get(
    '/v1/errors',
    {
      schema: {
        operationId: 'listErrors',
        tags: ['errors'],
        summary: 'Every error',
        response: answers({ 200: Type.Array(Type.Ref('ErrorInfo#')) }),
      },
    },
    () => codes.map(info),
  );
  app.get<{ Params: { code: string } }>(
    '/v1/errors/:code',
    {
      schema: {
        operationId: 'getError',
        tags: ['errors'],
        summary: 'One error',
        params: Type.Object({ code: Type.String() }),
        response: answers({ 200: Type.Ref('ErrorInfo#') }),
      },
    },
    (request) => {
      const code = codes.find((other) => other === request.params.code);
      if (code === undefined) {
        throw refuse('route_not_found', `there is no error ${request.params.code}`);
      }
      return info(code);
    },
  );
}

export function toProblem(error: OutriggerError): Problem {
  const { title, status } = error.entry;
  const { code, hint, message: detail } = error;
  // What belongs to no request (a locked state, say) is ours when it happens in one.
  return { type: problemType(code), title, status: status || 500, detail, code, hint };
}

function toOutriggerError(error: FastifyError): OutriggerError {
  if (error instanceof OutriggerError) {
    return error;
  }
  if (error instanceof EngineGoneError) {
    return refuse('engine_unavailable', messageOf(error));
  }
  if (error instanceof EngineCommandError) {
    return refuse('engine_refused', `${error.code}: ${error.message}`);
  }
  if (error.validation !== undefined) {
    const where = error.validationContext ?? 'request';
    const details = error.validation.map((entry) => describe(entry as ValidationEntry, where));
    return refuse('invalid_request', details.join('; '));
  }
  if (error.statusCode !== undefined && error.statusCode < 500) {
    return refuse('invalid_request', error.message);
  }
  return refuse('internal', error.message);
}

interface ValidationEntry {
  keyword: string;
  instancePath: string;
  message?: string;
  params: Record<string, unknown>;
  /** With ajv's option `verbose`. */
  data?: unknown;
  parentSchema?: { description?: string; properties?: object };
}

function describe(entry: ValidationEntry, where: string): string {
  const path = entry.instancePath.slice(1).replaceAll('/', '.') || `the ${where}`;
  switch (entry.keyword) {
    case 'additionalProperties': {
      const key = String(entry.params.additionalProperty);
      const known = Object.keys(entry.parentSchema?.properties ?? {});
      const meant = suggest(key, known);
      return `${path} has an unknown key ${key} (${meant ? `did you mean ${meant}?` : `known: ${listNames(known)}`})`;
    }
    case 'required':
      return `${path} lacks the key ${String(entry.params.missingProperty)}`;
    case 'enum':
      return `${path} must be one of ${(entry.params.allowedValues as unknown[]).join(', ')}`;
    case 'pattern':
      return `${path}: ${JSON.stringify(entry.data)} is not ${entry.parentSchema?.description ?? 'allowed'}`;
    default:
      return `${path} ${entry.message ?? 'is not valid'}`;
  }
}
