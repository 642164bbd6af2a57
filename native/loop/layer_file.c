/* The files of layers, opened and made on a thread that may wait. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine_internal.h"

static int refuse(char *why, int err, const char *path, const char *what)
{
    snprintf(why, OR_WHY_MAX, "%s %s%s%s", path, what, err == -EBADMSG ? "" : ": ",
             err == -EBADMSG ? "" : strerror(-err));
    return err;
}

static int lock(const struct or_layer_place *place, uint32_t timeout_ms, char *why)
{
    if (place->use == OR_LAYER_MERGE)
        return or_volume_file_lock_merge(place->path, timeout_ms, why);
    return or_volume_file_lock(place->path, place->use == OR_LAYER_READ, timeout_ms, why);
}

int or_layer_file_open(const struct or_layer_place *place, uint32_t timeout_ms, struct or_layer_file *file, char *why)
{
    int err = 0, fd = lock(place, timeout_ms, why);
    if (fd < 0)
        return fd;
    *file = (struct or_layer_file){.fd = fd, .content = place->content};
    if (place->raw) {
        if (fsync(fd) == 0) /* as or_layer_load */
            return 0;
        err = -errno;
        or_layer_file_close(file);
        return refuse(why, err, place->path, "cannot be synced");
    }
    const char *what;
    file->map = or_layer_load(fd, &err, &what);
    if (file->map && or_layer_map_content(file->map) != (place->header ? place->header : place->content)) {
        err = -EBADMSG;
        what = "is a layer, but not the one that was asked for";
    }
    if (err) {
        or_layer_file_close(file);
        return refuse(why, err, place->path, what);
    }
    or_layer_map_rename(file->map, place->content);
    return 0;
}

void or_layer_file_close(struct or_layer_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    or_layer_map_free(file->map);
    *file = (struct or_layer_file){.fd = -1};
}

int or_layer_file_create(const char *path, uint64_t size, uint64_t content, uint64_t continues, char *why)
{
    int err = or_layer_create(path, size, content, continues);
    if (err == -EEXIST)
        snprintf(why, OR_WHY_MAX, "%s is there already, and is not the layer that was to be made", path);
    else if (err)
        snprintf(why, OR_WHY_MAX, "cannot make the layer %s: %s", path, strerror(-err));
    return err;
}
