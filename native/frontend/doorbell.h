/* Rings an event descriptor that another process holds too.
 *
 * eventfd's write blocks when the counter is full and the file is not O_NONBLOCK, and whoever shares the open
 * file can bring both about at any time: no check before a write helps. A write cannot be told not to block
 * either (RWF_NOWAIT is refused). So the kernel is made to ring: when an asynchronous request (io_submit)
 * completes, it adds to the eventfd that the request names, and that saturates but never blocks. The request
 * reads nothing from /dev/zero and completes within the call. It costs about twice as much as the write. */
#ifndef OR_DOORBELL_H
#define OR_DOORBELL_H

/* Adds 1 to the counter. Never blocks. Any thread; each keeps what it needs until the process ends. Where
 * the kernel has no io_submit (or no more of it: fs.aio-max-nr) a full counter is looked for before the write,
 * which a hostile peer can outrun. */
void or_doorbell_ring(int event_fd);

#endif
