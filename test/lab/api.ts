// Asks a supervisor over its unix socket, as the command line does but without starting a process: for what
// is asked again and again while waiting.
import { request } from 'node:http';
import { LabError } from './errors.js';

const TIMEOUT_MS = 30_000;

/** GET of a path such as /v1/status; undefined when nobody answers at the socket. */
export function getJson<T>(socketPath: string, path: string): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath, path, timeout: TIMEOUT_MS }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (data: string) => {
        text += data;
      });
      response.on('error', () => resolve(undefined)); // the supervisor died while it answered
      response.on('end', () =>
        response.statusCode === 200
          ? resolve(JSON.parse(text) as T)
          : reject(new LabError(`GET ${path}: ${response.statusCode} ${text}`)),
      );
    });
    outgoing.on('timeout', () => outgoing.destroy());
    outgoing.on('error', () => resolve(undefined));
    outgoing.end();
  });
}
