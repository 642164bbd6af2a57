/* What the loop (engine.c) and the two roles (role_iohv.c, role_host.c) share. */
#ifndef OR_ENGINE_INTERNAL_H
#define OR_ENGINE_INTERNAL_H

#include <pthread.h>

#include "fd_source.h"
#include "mem/list.h"
#include "mem/spsc.h"
#include "outrigger.h"

/* A role: what the loop does in one step, chosen once when the engine starts. */
struct or_role_ops {
    uint32_t frame_types;  /* that it takes: bit n for enum or_frame_type n */
    uint32_t sessions_max; /* that a port must be able to let in */
    bool all_channels;     /* its ports take frames of every worker; else of the engine's own */
    int (*open)(struct or_engine *engine, char *why);
    /* Takes in, works, sends out; returns how much work there was. */
    uint32_t (*step)(struct or_engine *engine, uint64_t now);
    uint64_t (*deadline)(const struct or_engine *engine);
    /* Before sleeping: true when there is work after all. After sleeping. */
    bool (*arm)(struct or_engine *engine);
    void (*disarm)(struct or_engine *engine);
    /* Carries a command out, now or later; ends it with or_engine_finish. */
    void (*command)(struct or_engine *engine, struct or_command *command);
    /* A port's down, mtu or mac has changed. */
    void (*port_changed)(struct or_engine *engine, const struct or_port *port, uint64_t now);
    /* How many frames were refused, by reason, and where the last one came from. */
    void (*refused)(const struct or_engine *engine, uint64_t counts[OR_REFUSE_MAX], uint8_t source[6]);
    /* Begins to end everything; true when all has ended. Called every step until then. */
    bool (*close)(struct or_engine *engine);
};

extern const struct or_role_ops or_role_iohv, or_role_host;

/* The engine's ports, and the netlink socket that says when something happened to a network interface. */
struct or_ports {
    struct or_port *port[OR_LINKS_MAX]; /* as configured; NULL: no more */
    uint32_t count;
    struct or_fd_source source[OR_LINKS_MAX], handshake_source[OR_LINKS_MAX], news;
    /* For the owner's thread, of the first port: its address in the upper 48 bits, its MTU in the lower 16. */
    _Atomic uint64_t first;
    bool look;        /* news has come: look at the interfaces */
    uint64_t look_at; /* or do it then, because a port is down */
};

/* Of the refused frames, when they were looked at last. */
struct or_watch {
    uint64_t look_at, looked_ns, told_ns;
    uint64_t counts[OR_REFUSE_MAX + 1];
};

struct or_engine {
    struct or_engine_config config;
    const struct or_role_ops *role;
    void *role_data;
    struct or_ports ports;
    struct or_watch watch;
    int epoll_fd;
    struct or_fd_source bell;         /* an eventfd that wakes the worker for commands */
    struct or_spsc commands, results; /* results: finished commands and events, see engine.c */
    struct or_engine_stats stats;

    pthread_t thread;
    uint32_t outstanding; /* the owner's count of commands */
    _Atomic bool stopping;
    bool started_ok;
    char why[OR_WHY_MAX];
    int ready_fd; /* eventfd: the worker has opened everything, or failed */
};

uint64_t or_clock_ns(void);

/* ports.c. Opens the configured interfaces. 0 or -errno with a sentence in why; or_ports_close follows
 * either way. */
int or_ports_open(struct or_engine *engine, char *why);
void or_ports_close(struct or_engine *engine);
void or_ports_flush(struct or_engine *engine);
/* Follows what has happened to the interfaces. */
void or_ports_follow(struct or_engine *engine, uint64_t now);
/* Fills port and session_filter. */
void or_ports_stats(const struct or_engine *engine, struct or_engine_stats *out);

/* watch.c. Emits OR_EVENT_INTRUSION when hostile frames come by the hundred. To be called once a second, while
 * there is anything to do. */
void or_watch_look(struct or_engine *engine, uint64_t now);

/* Hands a command back to the owner: well, or with an error and a sentence for the operator (used only
 * when error is not 0). */
void or_engine_succeed(struct or_engine *engine, struct or_command *command);
void or_engine_finish(struct or_engine *engine, struct or_command *command, int error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* A new event of this type, or NULL when memory is short (counted as dropped). */
struct or_event *or_engine_event(struct or_engine *engine, enum or_event_type type, const uint8_t *bytes,
                                 uint32_t length);
/* Hands it to the owner; drops and counts when the ring has only room for answers. */
void or_engine_emit(struct or_engine *engine, struct or_event *event);

#endif
