/* The supervisor's store and the engines that come and go, without devices: snapshots are words, and
 * descriptors are memfds that can be told apart by what is in them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "keep/link.h"
#include "keep/store.h"
#include "loop/fd_source.h"

#define STEPS 200

struct engine {
    int epoll_fd;
    struct or_keep_link *link;
    int ended, err; /* calls of ended(), and the last error */
};

static char dir[64], path[80];
static struct or_keep_store *store;
static int changes;

static void changed(void *arg)
{
    (void)arg;
    changes++;
}

static void open_store(void)
{
    int err;
    store = or_keep_store_open(path, changed, NULL, &err);
    assert_non_null(store);
}

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/outrigger-keep-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/store", dir);
    changes = 0;
    open_store();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (store)
        or_keep_store_close(store);
    store = NULL;
    assert_int_equal(rmdir(dir), 0);
    return 0;
}

static void ended(void *arg, int err)
{
    struct engine *e = arg;
    e->ended++;
    e->err = err;
}

static void serve(struct engine *e)
{
    struct epoll_event event;
    while (epoll_wait(e->epoll_fd, &event, 1, 0) == 1) {
        struct or_fd_source *source = event.data.ptr;
        source->ready(source, event.events);
        if (store)
            or_keep_store_serve(store);
    }
}

static void run(struct engine *e)
{
    for (int i = 0; i < STEPS; i++) {
        if (store)
            or_keep_store_serve(store);
        serve(e);
    }
}

static struct engine engine_start(void)
{
    return (struct engine){.epoll_fd = epoll_create1(EPOLL_CLOEXEC)};
}

static void engine_connect(struct engine *e)
{
    if (e->link == NULL)
        e->link = or_keep_link_create(e->epoll_fd, ended, e);
    assert_int_equal(or_keep_link_connect(e->link, path), 0);
}

static void engine_end(struct engine *e)
{
    if (e->link)
        or_keep_link_destroy(e->link);
    close(e->epoll_fd);
    if (store)
        for (int i = 0; i < STEPS; i++)
            or_keep_store_serve(store);
}

static int file_with(uint32_t word)
{
    int fd = memfd_create("keep-test", MFD_CLOEXEC);
    assert_int_equal(write(fd, &word, sizeof(word)), sizeof(word));
    return fd;
}

/* A snapshot of `count` descriptors, which say word, word + 1, ... */
static int send_words(struct engine *e, uint32_t id, uint32_t word, uint32_t count)
{
    static struct or_keep_snapshot s;
    s = (struct or_keep_snapshot){.id = id, .length = sizeof(word)};
    memcpy(s.bytes, &word, sizeof(word));
    for (uint32_t i = 0; i < count; i++)
        assert_true(or_keep_put_fd(&s, file_with(word + i)));
    int rc = or_keep_link_send(e->link, &s);
    or_keep_close_fds(&s);
    return rc;
}

static bool holds(struct engine *e, uint32_t id, uint32_t word, uint32_t count)
{
    uint32_t epoch, found;
    struct or_keep_snapshot *s = or_keep_link_take(e->link, id, &epoch);
    assert_non_null(s);
    memcpy(&found, s->bytes, sizeof(found));
    bool ok = s->id == id && s->length == sizeof(word) && found == word && s->fd_count == count;
    for (uint32_t i = 0; ok && i < count; i++)
        ok = pread(s->fds[i], &found, sizeof(found), 0) == sizeof(found) && found == word + i;
    or_keep_close_fds(s);
    free(s);
    return ok;
}

static uint32_t held(void)
{
    return or_keep_store_devices(store, NULL, 0);
}

static int open_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void test_the_next_engine_gets_what_the_one_before_sent(void **state)
{
    (void)state;
    struct engine a = engine_start(), b = engine_start();
    uint32_t ids[4];
    engine_connect(&a);
    assert_int_equal(send_words(&a, 1, 10, 1), -EAGAIN); /* not before the store has said what it has */
    run(&a);
    assert_int_equal(a.ended, 1);
    assert_int_equal(send_words(&a, 1, 10, 2), 0);
    assert_int_equal(send_words(&a, 2, 20, OR_KEEP_FDS_MAX), 0);
    assert_int_equal(send_words(&a, 1, 30, 3), 0); /* replaces */
    engine_end(&a);
    assert_int_equal(held(), 2);
    engine_connect(&b);
    run(&b);
    assert_int_equal(b.ended, 1);
    assert_int_equal(b.err, 0);
    assert_int_equal(or_keep_link_stash(b.link, ids, 4), 2);
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[1], 2);
    assert_true(holds(&b, 1, 30, 3));
    assert_true(holds(&b, 2, 20, OR_KEEP_FDS_MAX));
    assert_int_equal(or_keep_link_stash(b.link, NULL, 0), 0);
    engine_end(&b);
    assert_int_equal(held(), 2); /* still */
}

static void test_many_devices_do_not_fit_into_the_socket_at_once(void **state)
{
    (void)state;
    struct engine a = engine_start(), b = engine_start();
    const uint32_t count = 300;
    engine_connect(&a);
    run(&a);
    for (uint32_t id = 0, full = 0; id < count;) {
        int rc = send_words(&a, id, id, 1);
        assert_true(rc == 0 || rc == -EAGAIN);
        if (rc == 0)
            id++;
        else
            run(&a);
        assert_true(full++ < 2 * count);
    }
    engine_end(&a);
    assert_int_equal(held(), count);
    engine_connect(&b);
    run(&b);
    assert_int_equal(or_keep_link_stash(b.link, NULL, 0), count);
    assert_true(holds(&b, count - 1, count - 1, 1));
    engine_end(&b);
}

static void test_an_engine_waits_until_the_one_before_has_ended(void **state)
{
    (void)state;
    struct engine a = engine_start(), b = engine_start();
    engine_connect(&a);
    run(&a);
    assert_int_equal(send_words(&a, 1, 10, 1), 0);
    run(&a);
    engine_connect(&b);
    run(&b);
    assert_int_equal(b.ended, 0);
    assert_int_equal(or_keep_link_stash(b.link, NULL, 0), 0);
    /* Sent, but not received when it ends. */
    assert_int_equal(send_words(&a, 1, 11, 1), 0);
    engine_end(&a);
    run(&b);
    assert_int_equal(b.ended, 1);
    assert_true(holds(&b, 1, 11, 1));
    engine_end(&b);
}

static void test_an_engine_that_dies_unheard_costs_nothing(void **state)
{
    (void)state;
    struct engine a = engine_start(), b = engine_start(), c = engine_start();
    engine_connect(&a);
    run(&a);
    for (uint32_t id = 0; id < 20; id++)
        assert_int_equal(send_words(&a, id, id, 1), 0);
    engine_end(&a);
    engine_connect(&b);
    for (int i = 0; i < STEPS; i++)
        or_keep_store_serve(store); /* everything is on its way to b, which never reads it */
    engine_end(&b);
    engine_connect(&c);
    run(&c);
    assert_int_equal(or_keep_link_stash(c.link, NULL, 0), 20);
    engine_end(&c);
}

static void test_a_forgotten_device_is_gone(void **state)
{
    (void)state;
    struct engine a = engine_start();
    int before = open_fds();
    engine_connect(&a);
    run(&a);
    int connected = open_fds();
    changes = 0;
    assert_int_equal(send_words(&a, 1, 10, 5), 0);
    run(&a);
    assert_int_equal(held(), 1);
    assert_int_equal(open_fds(), connected + 5);
    or_keep_link_forget(a.link, 1);
    or_keep_link_forget(a.link, 7); /* unknown */
    run(&a);
    assert_int_equal(held(), 0);
    assert_int_equal(open_fds(), connected);
    assert_int_equal(changes, 2);
    assert_true(before < connected);
    engine_end(&a);
}

static void test_a_device_is_forgotten_even_if_the_socket_is_full(void **state)
{
    (void)state;
    struct engine a = engine_start();
    engine_connect(&a);
    run(&a);
    uint32_t id = 0;
    while (send_words(&a, id, id, 1) == 0)
        id++;
    /* The device that did not fit is removed, and one that did; and that one is made anew. */
    or_keep_link_forget(a.link, id);
    or_keep_link_forget(a.link, 0);
    assert_int_equal(send_words(&a, 0, 100, 1), -EAGAIN);
    run(&a);
    assert_int_equal(held(), id - 1);
    assert_int_equal(send_words(&a, 0, 100, 1), 0);
    run(&a);
    assert_int_equal(held(), id);
    engine_end(&a);
}

static void test_an_engine_that_is_told_again_stays_connected(void **state)
{
    (void)state;
    struct engine a = engine_start(), b = engine_start();
    engine_connect(&a);
    assert_int_equal(or_keep_link_connect(a.link, path), 0); /* and the first call has ended */
    assert_int_equal(a.ended, 1);
    assert_int_equal(a.err, -ECANCELED);
    run(&a);
    assert_int_equal(a.ended, 2);
    assert_int_equal(a.err, 0);
    engine_connect(&b);
    uint32_t epoch = or_keep_link_epoch(a.link);
    assert_int_equal(or_keep_link_connect(a.link, path), 1);
    assert_int_equal(or_keep_link_epoch(a.link), epoch);
    run(&b);
    run(&a);
    assert_int_equal(b.ended, 0); /* a has not ended: nothing is b's */
    engine_end(&a);
    run(&b);
    assert_int_equal(b.ended, 1);
    engine_end(&b);
}

static void test_a_new_store_learns_what_was_never_used(void **state)
{
    (void)state;
    struct engine a = engine_start(), b = engine_start(), c = engine_start();
    engine_connect(&a);
    run(&a);
    assert_int_equal(send_words(&a, 1, 10, 2), 0);
    engine_end(&a);
    engine_connect(&b);
    run(&b);
    uint32_t first = or_keep_link_epoch(b.link);
    assert_int_not_equal(first, 0);
    /* The supervisor dies, and another comes; b has not made its device yet. */
    or_keep_store_close(store);
    store = NULL;
    run(&b);
    assert_int_equal(or_keep_link_epoch(b.link), 0);
    open_store();
    engine_connect(&b);
    run(&b);
    assert_int_equal(b.ended, 2);
    assert_int_not_equal(or_keep_link_epoch(b.link), first);
    assert_int_equal(held(), 1);
    engine_end(&b);
    engine_connect(&c);
    run(&c);
    assert_true(holds(&c, 1, 10, 2));
    engine_end(&c);
}

static void test_a_store_that_goes_away_ends_the_wait(void **state)
{
    (void)state;
    struct engine a = engine_start();
    engine_connect(&a);
    or_keep_store_close(store);
    store = NULL;
    run(&a);
    assert_int_equal(a.ended, 1);
    assert_int_equal(a.err, -ECONNRESET);
    assert_int_equal(or_keep_link_connect(a.link, path), -ENOENT);
    engine_end(&a);
}

static int raw_connect(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (void *)&address, sizeof(address)), 0);
    return fd;
}

static void test_nonsense_is_dropped_and_counted(void **state)
{
    (void)state;
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    int before = open_fds();
    int fd = raw_connect();
    struct engine a = engine_start();
    or_keep_store_serve(store);
    uint8_t bytes[16384];
    srand(1);
    uint64_t sent = 0;
    for (uint32_t i = 0; i < 2000; i++) {
        uint32_t length = 1 + (uint32_t)rand() % (i % 7 ? 64 : sizeof(bytes));
        for (uint32_t n = 0; n < length; n++)
            bytes[n] = (uint8_t)rand();
        if (i % 3 == 0) { /* a header that is right, but for its type */
            struct or_keep_header h = {.magic = 0x5045454b, .type = 2 + i % 5, .id = i};
            memcpy(bytes, &h, sizeof(h));
            length = length < sizeof(h) ? sizeof(h) : length;
        }
        union {
            char bytes[CMSG_SPACE(sizeof(int) * 200)];
            struct cmsghdr align;
        } control = {0};
        uint32_t fds = i % 5 == 0 ? 200 : i % 5; /* 200: more than a snapshot may have */
        struct iovec iov = {bytes, length};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
        if (fds) {
            m.msg_control = control.bytes;
            m.msg_controllen = CMSG_SPACE(sizeof(int) * fds);
            struct cmsghdr *c = CMSG_FIRSTHDR(&m);
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN(sizeof(int) * fds);
            for (uint32_t n = 0; n < fds; n++)
                memcpy(CMSG_DATA(c) + n * sizeof(int), &fd, sizeof(fd));
        }
        sent += sendmsg(fd, &m, MSG_NOSIGNAL) > 0;
        or_keep_store_serve(store);
    }
    assert_true(sent > 1900);
    assert_int_equal(or_keep_store_refused(store), sent);
    assert_int_equal(held(), 0);
    close(fd);
    engine_connect(&a);
    run(&a);
    assert_int_equal(a.ended, 1);
    assert_int_equal(send_words(&a, 1, 10, 1), 0);
    run(&a);
    assert_int_equal(held(), 1);
    or_keep_link_forget(a.link, 1);
    engine_end(&a);
    assert_int_equal(open_fds(), before);
}

static void test_an_engine_gives_up_a_store_that_makes_no_sense(void **state)
{
    (void)state;
    or_keep_store_close(store);
    store = NULL;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (void *)&address, sizeof(address)), 0);
    assert_int_equal(listen(listener, 1), 0);
    struct engine a = engine_start();
    engine_connect(&a);
    int fd = accept(listener, NULL, NULL);
    assert_int_equal(send(fd, "hello", 5, 0), 5);
    run(&a);
    assert_int_equal(a.ended, 1);
    assert_int_equal(a.err, -EPROTO);
    char byte;
    assert_int_equal(recv(fd, &byte, 1, 0), 0);
    close(fd);
    close(listener);
    unlink(path);
    engine_end(&a);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_next_engine_gets_what_the_one_before_sent),
        TEST(test_many_devices_do_not_fit_into_the_socket_at_once),
        TEST(test_an_engine_waits_until_the_one_before_has_ended),
        TEST(test_an_engine_that_dies_unheard_costs_nothing),
        TEST(test_a_forgotten_device_is_gone),
        TEST(test_a_device_is_forgotten_even_if_the_socket_is_full),
        TEST(test_an_engine_that_is_told_again_stays_connected),
        TEST(test_a_new_store_learns_what_was_never_used),
        TEST(test_a_store_that_goes_away_ends_the_wait),
        TEST(test_nonsense_is_dropped_and_counted),
        TEST(test_an_engine_gives_up_a_store_that_makes_no_sense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
