// The outside of `ledger` in the test guest (guest/test/ledger.c): a program of its own, so that it can be where the
// guest's packets arrive. Prints a line for each thing that it saw.
//
//   ledger-client ask ADDRESS PORT FIRST   has numbers written, WINDOW at once, from FIRST on; `seen N`: a reply came
//   ledger-client hear PORT                `heard N`: a storm told of a number, of which none was larger before
import { createSocket } from 'node:dgram';

const WINDOW = 16;
/** Nobody knows what was lost: it is asked again. */
const AGAIN_MS = 250;

const say = (line: string) => process.stdout.write(`${line}\n`);

function encode(number: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(number));
  return bytes;
}

function ask(address: string, port: number, first: number): void {
  const socket = createSocket('udp4');
  const underWay = new Set<number>();
  let next = first;
  // While the guest's network is away a send may fail: as if it was lost.
  const send = (number: number) => socket.send(encode(number), port, address, () => {});
  const begin = () => {
    for (; underWay.size < WINDOW; next++) {
      underWay.add(next);
      send(next);
    }
  };
  socket.on('message', (message) => {
    const number = message.length === 8 ? Number(message.readBigUInt64LE()) : Number.NaN;
    if (underWay.delete(number)) {
      say(`seen ${number}`);
      begin();
    } else if (!(number >= first && number < next)) {
      say(`foreign ${message.toString('hex')}`);
    }
  });
  setInterval(() => [...underWay].forEach(send), AGAIN_MS);
  socket.bind(begin);
}

function hear(port: number): void {
  let most = 0;
  const socket = createSocket('udp4');
  socket.on('message', (message) => {
    const number = message.length === 8 ? Number(message.readBigUInt64LE()) : Number.NaN;
    if (number > most) {
      most = number;
      say(`heard ${number}`);
    }
  });
  socket.bind(port, () => say('hearing'));
}

const [verb, ...args] = process.argv.slice(2);
if (verb === 'ask') {
  const [address = '', port, first] = args;
  ask(address, Number(port), Number(first));
} else {
  hear(Number(args[0]));
}
