/* The simulated storage: what the I/O hypervisor's volumes stand for. A disk lives as long as the
 * world; each life of a server opens it through a volume of its own. Operations of a dead server are
 * not taken back: they take effect when they take effect, like O_DIRECT requests that the kernel has,
 * and until then they hold the disk's flock. */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include "backend/backend.h"
#include "model.h"

struct volume {
    struct or_volume or ; /* first: what the server knows */
    struct disk *disk;
    bool dead; /* of a server that has crashed */
};

/* An operation that the storage has. */
struct disk_op {
    struct disk *disk;
    struct or_io *io; /* NULL: the server that asked is dead */
    struct request *request;
    uint64_t offset;
    uint32_t length, first_block, blocks;
    uint8_t op, status;
    uint32_t session, generation; /* of the server, when it was submitted */
    uint64_t began;
    bool effective;       /* the effect has taken place */
    uint8_t *orphan_data; /* what a dead server's buffer held */
    struct disk_op *next, *prev;
};

struct disk {
    struct sim *sim;
    uint32_t index;
    uint32_t block_size, blocks;
    uint64_t size;
    bool read_only;
    uint8_t *bytes;
    struct block_state *state;
    uint32_t scribble_blocks; /* the first so many: buffers are rewritten under I/O */

    /* The attachment as it should be. */
    uint32_t owner, next_owner; /* hosts; the next one while draining */
    uint32_t id, generation, weight;
    uint64_t detached_at;  /* last time when the server knew no such export */
    uint64_t moved_at;     /* last time when the owner changed */
    bool attached;         /* the living server has it */
    bool draining;         /* removal was asked for and not confirmed */
    uint32_t worker;       /* of the server, that has it */
    uint32_t placement;    /* another number each time */
    bool shifting;         /* on its way to another one */
    struct volume *volume; /* of the living server */

    struct request *open; /* requests without an answer, oldest last */
    struct disk_op *ops;  /* under way */
    uint32_t orphans;     /* of them, of dead servers */
    struct host *last_host;
    uint32_t last_life;   /* the newest life of last_host that this disk has seen */
    uint64_t flush_began; /* start of the latest flush that ended well */
    uint64_t failed_at;   /* last injected error */
    bool sabotaged;       /* a world plant has struck */
};

void disk_init(struct disk *disk, struct sim *sim, uint32_t index);
/* A volume for a new life of the server. */
struct volume *disk_open(struct disk *disk);
/* The server is dead: what the storage has goes on alone; the server's own structures are ended
 * (with an error that nobody will hear) so that it can be freed. */
void disk_orphan(struct disk *disk);

#endif
