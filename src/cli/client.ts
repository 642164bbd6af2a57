// The command line's way to a supervisor: HTTP over its unix socket, or HTTPS with a bearer token.
import { existsSync } from 'node:fs';
import { type ClientRequest, request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Readable } from 'node:stream';
import type { Problem } from '../api/schemas.js';
import { readTextFile } from '../config/keys.js';
import { ERRORS, type ErrorCode, errnoOf, messageOf, OutriggerError, refuse } from '../errors.js';

export interface Target {
  socket?: string | undefined;
  url?: string | undefined;
  tokenFile?: string | undefined;
  /** Certificate of the authority that signed the server's, PEM. */
  caFile?: string | undefined;
}

export type Method = 'PATCH' | 'GET' | 'PUT' | 'POST' | 'DELETE';

const DEFAULT_SOCKETS = ['/run/outrigger/iohv.sock', '/run/outrigger/host.sock'];
const TIMEOUT_MS = 30_000;
/** Each request has a connection of its own: those that Node shares end when they are idle, also while we wait. */
const ALONE: RequestOptions = { agent: false };

export class ApiClient {
  /** For messages: what we talk to. */
  readonly where: string;
  private readonly open: (options: RequestOptions, onResponse: (response: IncomingMessage) => void) => ClientRequest;

  constructor(target: Target) {
    if (target.url !== undefined) {
      const { url, options } = httpsTarget(target.url, target);
      this.where = target.url;
      this.open = (extra, done) =>
        httpsRequest(url, { ...ALONE, ...options, ...extra, headers: { ...options.headers, ...extra.headers } }, done);
    } else {
      const socketPath = target.socket ?? DEFAULT_SOCKETS.find((path) => existsSync(path)) ?? DEFAULT_SOCKETS[0] ?? '';
      this.where = socketPath;
      this.open = (extra, done) => httpRequest({ ...ALONE, ...extra, socketPath, host: 'localhost' }, done);
    }
  }

  get<T>(path: string): Promise<T> {
    return this.call<T>('GET', path);
  }

  /** Throws the OutriggerError that the server answered, or `unreachable`. */
  async call<T>(method: Method, path: string, body?: unknown): Promise<T> {
    return this.send<T>(method, path, body, { timeout: TIMEOUT_MS });
  }

  /** As call(), for what takes as long as it takes. */
  async callSlowly<T>(method: Method, path: string, body?: unknown): Promise<T> {
    return this.send<T>(method, path, body, {});
  }

  /** A body that is no JSON. It ends with an error when the connection breaks. */
  async download(path: string): Promise<IncomingMessage> {
    const response = await this.exchange({ method: 'GET', path }, (request) => request.end());
    return isSuccess(response) ? response : this.valueOf(response, `GET ${path}`);
  }

  /** Sends `source` to its end, or until the server answers, which it does earlier when it refuses. */
  async upload<T>(path: string, source: Readable): Promise<T> {
    // The server leaves it to us to close: a refusal would get lost with a connection that it closes while we send.
    const headers = { 'content-type': 'application/octet-stream', connection: 'keep-alive' };
    let failure: unknown;
    const response = await this.exchange({ method: 'PUT', path, headers }, (request) => {
      source.once('error', (error) => {
        failure = error;
        request.destroy(error);
      });
      source.pipe(request);
    }).catch((error: unknown) => {
      throw failure ?? error;
    });
    source.unpipe();
    try {
      return await this.valueOf<T>(response, `PUT ${path}`);
    } finally {
      source.destroy();
      response.destroy(); // what the server did not want is not sent
    }
  }

  private async send<T>(method: Method, path: string, body: unknown, options: RequestOptions): Promise<T> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const headers = payload === undefined ? {} : { 'content-type': 'application/json' };
    const response = await this.exchange({ method, path, headers, ...options }, (request) => request.end(payload));
    return this.valueOf<T>(response, `${method} ${path}`);
  }

  private async valueOf<T>(response: IncomingMessage, what: string): Promise<T> {
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of response) {
        chunks.push(chunk as Buffer);
      }
    } catch (error) {
      throw this.unreachable(error);
    }
    const text = Buffer.concat(chunks).toString('utf8');
    const value: unknown = text === '' ? undefined : parse(text, this.where);
    if (isSuccess(response)) {
      return value as T;
    }
    if (isProblem(value)) {
      const code = value.code in ERRORS ? (value.code as ErrorCode) : 'internal';
      throw new OutriggerError(code, value.detail, value.hint);
    }
    throw refuse('internal', `${this.where} answered ${response.statusCode} to ${what}`);
  }

  private exchange(options: RequestOptions, send: (request: ClientRequest) => void): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const request = this.open(options, resolve);
      request.on('timeout', () => request.destroy(new Error(`no answer within ${TIMEOUT_MS / 1000} s`)));
      request.on('error', (error) => reject(this.unreachable(error)));
      send(request);
    });
  }

  private unreachable(error: unknown): OutriggerError {
    const code = errnoOf(error);
    const mends: Record<string, string> = {
      ENOENT: 'start it (`systemctl start outrigger-iohv` or `outrigger-host`), or name its socket with --socket PATH',
      ECONNREFUSED: 'it is not running: start it (`systemctl start outrigger-iohv` or `outrigger-host`)',
      EACCES: 'only root and the group of the socket may use it (api.socket_group in the configuration)',
      ENOTFOUND: 'check the name in --url',
      DEPTH_ZERO_SELF_SIGNED_CERT: "name the server's certificate with --ca FILE",
      SELF_SIGNED_CERT_IN_CHAIN: 'name the certificate of the authority with --ca FILE',
      UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'name the certificate of the authority with --ca FILE',
    };
    const hint = mends[code] ?? ERRORS.unreachable.hint;
    return new OutriggerError('unreachable', `no supervisor at ${this.where}: ${code || messageOf(error)}`, hint);
  }
}

function httpsTarget(text: string, target: Target): { url: URL; options: RequestOptions & { ca?: string } } {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== 'https:') {
    throw refuse('usage', `--url must be like https://iohv.example:8443, not ${text}`, { command: '' });
  }
  if (target.tokenFile === undefined) {
    throw refuse('usage', '--url needs --token-file FILE, a file that holds the bearer token', { command: '' });
  }
  const token = secretFile('--token-file', target.tokenFile, true).trim();
  const ca = target.caFile === undefined ? {} : { ca: secretFile('--ca', target.caFile, false) };
  return { url, options: { headers: { authorization: `Bearer ${token}` }, ...ca } };
}

function secretFile(option: string, file: string, secret: boolean): string {
  const text = readTextFile(file, secret);
  if (!text.ok) {
    throw new OutriggerError('usage', `${option}: ${text.problem.message}`, text.problem.hint);
  }
  return text.value;
}

function parse(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw refuse('internal', `${where} answered something that is not JSON: ${text.slice(0, 80)}`);
  }
}

function isSuccess({ statusCode = 0 }: IncomingMessage): boolean {
  return statusCode >= 200 && statusCode < 300;
}

function isProblem(value: unknown): value is Problem {
  return typeof value === 'object' && value !== null && 'code' in value && 'detail' in value && 'hint' in value;
}
