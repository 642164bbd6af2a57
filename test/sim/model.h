/* The checker: what must be true of requests, whatever happened to frames, engines and disks.
 *
 * Requests are numbered in the order in which hosts submit them, and the client promises to put
 * overlapping requests of which one writes through one after the other in that order. So the number
 * of a request is its age everywhere, and the model of a disk is small: per block, the last write
 * that was acknowledged (`content`), the number of the last acknowledged request that changed it
 * (`acked`), and the writes of unknown outcome since (`floating`): those of a host that died, of a
 * fenced generation, of an injected I/O error. A read returns one of them. */
#ifndef SIM_MODEL_H
#define SIM_MODEL_H

#include "or_types.h"
#include "world.h"

struct sim;
struct host;
struct disk;
struct disk_op;

enum request_state {
    REQUEST_OPEN,    /* submitted, not answered */
    REQUEST_DONE,    /* answered */
    REQUEST_UNKNOWN, /* never will be answered, or with an error that says nothing */
};

struct request {
    struct or_req req; /* first: what the client knows */
    struct host *host;
    struct disk *disk;
    uint32_t id;         /* in order of submission */
    uint32_t first_life; /* of the host, at the first submission; what is executed may be of any life from this */
    uint32_t life;       /* to this, at the last submission */
    uint8_t state;       /* enum request_state */
    uint8_t expected;    /* a status that this request must end with, or OR_OK */
    bool scribbled;
    bool executed_ok, executed_error; /* some execution ended so */
    uint32_t executed_session;        /* the last session of the server in which it was executed */
    uint64_t submitted;               /* world time, first submission */
    uint8_t *buffer;                  /* of a read */
    uint32_t first_block, blocks;
    struct request *next, *prev; /* in disk->open */
};

/* Writes of unknown outcome, per block. */
struct floating {
    uint32_t id; /* 0: zeroes */
    struct floating *next;
};

struct block_state {
    uint32_t content;  /* last acknowledged write; 0: zeroes */
    uint32_t acked;    /* last acknowledged request that changed the block, */
    uint32_t replaced; /* and the last that left nothing of what was there: no discard */
    struct floating *floating;
};

bool requests_conflict(const struct request *a, const struct request *b);

/* A host hands the request to a client, for the first time or, after a crash that it survived, again. */
void model_submit(struct request *request);
void model_submit_again(struct request *request);
/* The client answered. */
void model_done(struct request *request);
/* The host died without an answer, and forgets the request. */
void model_unknown(struct request *request);

/* A server gives an operation to the storage: finds out which request it is (op->request, NULL for
 * operations that change nothing and cannot be told apart) and checks that it may. */
void model_execute(struct disk *disk, struct disk_op *op);
/* The storage changes blocks [first, first + count) on behalf of op. */
void model_effect(struct disk *disk, struct disk_op *op, const uint8_t *data, uint32_t count);

#endif
