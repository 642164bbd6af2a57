/* Sentences for the operator about what a port could not do. */
#ifndef OR_PORT_WHY_H
#define OR_PORT_WHY_H

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct or_port_why {
    char *text; /* of `size` bytes with the NUL */
    uint32_t size;
};

/* Says what is wrong, and returns -error. */
__attribute__((format(printf, 3, 4))) static inline int or_port_refuse(struct or_port_why why, int error,
                                                                       const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why.text, why.size, format, args);
    va_end(args);
    return -error;
}

/* A system call has failed; errno says how. */
static inline int or_port_refuse_call(struct or_port_why why, const char *ifname, const char *call)
{
    int error = errno;
    return or_port_refuse(why, error, "cannot open a packet port on %s: %s: %s", ifname, call, strerror(error));
}

#endif
