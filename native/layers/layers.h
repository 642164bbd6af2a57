/* Layered volumes: what makes clones and snapshots of volumes.
 *
 * A layered volume is a volume (backend/backend.h) over a chain of layers. Layer 0, the head, takes what is
 * written; the others are sealed: what they show stays for ever (merge.h changes files beneath that), so many chains
 * may share one. A layer is an overlay file, which knows for each cluster of 4 KiB whether it is here, reads as zeroes,
 * or is as in the layer below; the last one may be a plain volume, a raw file or a block device, which has every
 * cluster. Which layers make a volume is not in the files; the supervisor knows. docs/layers.md draws the format and
 * tells what it promises after a crash.
 *
 * A layered volume and the volumes of its layers belong to one thread; files are made and loaded on any. Nothing is
 * allocated after or_layers_volume(). As with every back-end, of two operations that overlap and of which one writes,
 * only one may be under way; they may share a cluster as long as they do not share a byte. */
#ifndef OR_LAYERS_H
#define OR_LAYERS_H

#include "backend/backend.h"

#define OR_LAYER_CLUSTER 4096u
#define OR_LAYERS_MAX 64u                     /* of one volume */
#define OR_LAYER_SIZE_MAX (UINT64_C(1) << 46) /* of a volume, bytes: its map has 4 GiB */

/* --- files: any thread; they block --------------------------------------------------------------- */

/* Which clusters an overlay has; in memory as in the file. */
struct or_layer_map;

/* Makes an empty file an overlay of a volume of `size` bytes (a multiple of 512) that has nothing yet, durably.
 * content: names what will be in it; not 0, never used before. continues: the content that its volume has written to so
 * far (a cut); 0: it begins with what others have left (a clone, a rollback). 0 or -errno: -EEXIST the file is not
 * empty, -EINVAL. */
int or_layer_format(int fd, uint64_t size, uint64_t content, uint64_t continues);
/* The same for a new file at `path`, durably with its name: after a crash it is there, whole, or not at all. One that
 * is there with this size and these contents is as good; -EEXIST: something else is there. */
int or_layer_create(const char *path, uint64_t size, uint64_t content, uint64_t continues);
/* Reads an overlay's header and map, after making durable what the file has. NULL with *err and, in *why, what is wrong
 * with the file, as in "the file ...": -EBADMSG it is no overlay, or damaged; -ENOMEM; or what a system call said. */
struct or_layer_map *or_layer_load(int fd, int *err, const char **why);
uint64_t or_layer_map_content(const struct or_layer_map *map);
/* From now on it is that of `content`: the file has taken the place of another one (merge.h), and keeps its header. */
void or_layer_map_rename(struct or_layer_map *map, uint64_t content);
uint64_t or_layer_map_size(const struct or_layer_map *map); /* of the volume, bytes */
void or_layer_map_free(struct or_layer_map *map);

/* --- volumes ------------------------------------------------------------------------------------- */

struct or_layer {
    struct or_volume *volume; /* the whole file, as or_volume_file() opens it */
    struct or_layer_map
        *map; /* from or_layer_load; NULL: it is not an overlay, but has the volume's bytes as they are */
    uint64_t content;
};

/* layers[0] is the head, an overlay; only the last may be without a map. Layers may be smaller than those above:
 * beyond their end are zeroes. On success all volumes and maps belong to the layered volume, their `owner` and
 * `failed` too. `read_only` of the head is that of the volume. Blocks are of the size that the last layer has if it
 * is no overlay, else of 512 bytes.
 * NULL with *err: -EINVAL (no layers or more than OR_LAYERS_MAX, the head or one in between is no overlay, a file too
 * short for its overlay, one whose content is not what its map says, a size that is not a multiple of the block size),
 * -ENOMEM. */
struct or_volume *or_layers_volume(const struct or_layer *layers, uint32_t count, int *err);

/* Of these, `layered` came from or_layers_volume(). */

/* Seals the head, and puts a new one, an empty overlay of the same size, above it. Nothing may be under way, and the
 * last operation that ended must have been a flush, a good one. 0, and the new layer belongs to the volume; or -EINVAL
 * (it does not fit), -EBUSY (something is not flushed), -EMLINK (OR_LAYERS_MAX). */
int or_layers_push(struct or_volume *layered, const struct or_layer *head);

/* Puts other layers below the head, which together hold what those there hold, and closes those. Nothing may be under
 * way. 0, and they belong to the volume; or -EINVAL (they do not fit, as in or_layers_volume, or another block size
 * would come of it). */
int or_layers_rebase(struct or_volume *layered, const struct or_layer *below, uint32_t count);

/* The content of layers[index], if this volume wrote to it before layers[index - 1] came; or 0. What a cache
 * acknowledged as the one's and could not write out is the other one's then: the engine died before it had put that on
 * top. */
uint64_t or_layers_continued(const struct or_volume *layered, uint32_t index);

/* For or_cache_volume_config.map: in which layer's content the cluster `number` is now, and where. */
void or_layers_map(void *layered, uint64_t number, uint64_t *content, uint64_t *content_number);

struct or_layer_info {
    uint64_t content;
    bool raw;          /* not an overlay; then the others are 0 */
    uint64_t clusters; /* that are here */
    uint64_t zeroes;   /* that read as zeroes, whatever is below */
};

uint32_t or_layers_count(const struct or_volume *layered);
/* index: below or_layers_count(). */
struct or_layer_info or_layers_info(const struct or_volume *layered, uint32_t index);
/* Whether a volume came from or_layers_volume(). */
bool or_layers_is(const struct or_volume *volume);

#endif
