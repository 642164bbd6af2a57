/* The engine: one polling worker thread that carries all I/O of a process. This is the only header
 * that the addon, the tools and the bench need.
 *
 * The owner's threads talk to the worker through two bounded rings: or_engine_submit puts a command
 * in (-EAGAIN when the ring is full: push back), or_engine_reap takes replies and events out;
 * or_engine_event_fd becomes readable when there are some. Counters are read from a page that the
 * worker writes (or_engine_stats). */
#ifndef OUTRIGGER_H
#define OUTRIGGER_H

#include "or_types.h"

#endif
