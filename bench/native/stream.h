/* Echo messages over TCP, both ends. Sending gathers headers and payloads from where they lie;
 * receiving reads a large payload straight to where it belongs and small messages by the batch. */
#ifndef BENCH_STREAM_H
#define BENCH_STREAM_H

#include "echo.h"

struct stream;

struct stream_ops {
    /* Where the payload of a message that begins goes; NULL ends the connection. */
    uint8_t *(*place)(void *arg, const struct echo_message *message);
    /* The message is complete. */
    void (*complete)(void *arg, const struct echo_message *message);
};

/* Takes the descriptor of a connected socket. */
struct stream *stream_create(int fd, const struct stream_ops *ops, void *arg);
void stream_destroy(struct stream *stream);

/* Queues a message; `payload` (message->length bytes) is read until it has been sent. At most
 * SLOTS_LIMIT messages may be queued: as many as operations can be in flight. */
void stream_send(struct stream *stream, const struct echo_message *message, const uint8_t *payload);
/* Writes what the socket takes. False when the connection is gone. */
bool stream_flush(struct stream *stream);
/* Reads and delivers what has arrived: the number of bytes, or -1 when the connection is gone. */
int64_t stream_receive(struct stream *stream);
/* True while something waits to be sent. */
bool stream_unsent(const struct stream *stream);
int stream_fd(const struct stream *stream);

/* For a connected or accepted socket: no delay. */
void stream_prepare_socket(int fd);

#endif
