// Asks a supervisor over its unix socket, as the command line does but without starting a process: for what
// is asked again and again while waiting.
import { request } from 'node:http';
import { LabError } from './errors.js';

const TIMEOUT_MS = 30_000;

export type Method = 'PUT' | 'POST' | 'PATCH' | 'DELETE';

/** GET of a path such as /v1/status; undefined when nobody answers at the socket. */
export async function getJson<T>(socketPath: string, path: string): Promise<T | undefined> {
  const answer = await ask(socketPath, 'GET', path).catch(() => undefined); // it may die while it answers
  if (answer === undefined) {
    return undefined;
  }
  if (answer.status !== 200) {
    throw new LabError(`GET ${path}: ${answer.status} ${answer.text}`);
  }
  return JSON.parse(answer.text) as T;
}

/** GET of a text such as /metrics. */
export async function getText(socketPath: string, path: string): Promise<string> {
  const { status, text } = await ask(socketPath, 'GET', path);
  if (status !== 200) {
    throw new LabError(`GET ${path}: ${status} ${text}`);
  }
  return text;
}

/** A change; throws unless it is done. */
export async function change(socketPath: string, method: Method, path: string, body?: object): Promise<void> {
  const { status, text } = await ask(socketPath, method, path, body);
  if (status < 200 || status > 299) {
    throw new LabError(`${method} ${path}: ${status} ${text}`);
  }
}

function ask(socketPath: string, method: 'GET' | Method, path: string, body?: object) {
  return new Promise<{ status: number; text: string }>((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' };
    const outgoing = request({ socketPath, method, path, headers, agent: false, timeout: TIMEOUT_MS }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (data: string) => {
        text += data;
      });
      response.on('error', reject);
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
    });
    outgoing.on('timeout', () => outgoing.destroy(new LabError(`${method} ${path}: no answer`)));
    outgoing.on('error', reject);
    outgoing.end(body === undefined ? undefined : JSON.stringify(body));
  });
}
