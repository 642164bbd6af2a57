/* Intrusive doubly linked lists. The head is a struct or_list of its own; an entry that is in no list
 * points to itself, so removing it again is harmless. */
#ifndef OR_LIST_H
#define OR_LIST_H

#include "or_types.h"

#define OR_CONTAINER(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

static inline void or_list_init(struct or_list *l)
{
    l->next = l->prev = l;
}

static inline bool or_list_empty(const struct or_list *l)
{
    return l->next == l;
}

static inline void or_list_remove(struct or_list *e)
{
    e->prev->next = e->next;
    e->next->prev = e->prev;
    or_list_init(e);
}

static inline void or_list_append(struct or_list *head, struct or_list *e)
{
    e->prev = head->prev;
    e->next = head;
    head->prev->next = e;
    head->prev = e;
}

static inline void or_list_prepend(struct or_list *head, struct or_list *e)
{
    or_list_append(head->next, e);
}

#endif
