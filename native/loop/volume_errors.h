/* Storage errors of a volume, on their way to the owner of the engine: at most one event a second, but that
 * acknowledged data may be lost is told at once, because nobody would know it any more if the engine died first. */
#ifndef OR_VOLUME_ERRORS_H
#define OR_VOLUME_ERRORS_H

#include <stdbool.h>
#include <stdint.h>

#include "outrigger.h"

/* Zeroed: there are none. */
struct or_volume_errors {
    struct or_volume_error error; /* not told yet while error.count > 0 */
    uint64_t tell_at;             /* not before: the next event */
    bool lost;                    /* a loss of data was noted */
};

/* `flush_failed`: of the volume, from now on or before. */
void or_volume_errors_note(struct or_volume_errors *errors, uint8_t op, int error, uint64_t offset, bool flush_failed);
/* Takes what is to be told now; false: nothing. */
bool or_volume_errors_take(struct or_volume_errors *errors, uint64_t now, struct or_volume_error *out);
/* When something is to be told; UINT64_MAX: there is nothing. */
uint64_t or_volume_errors_due(const struct or_volume_errors *errors);

#endif
