/* The guest memory map: translation with bounds, references, and files that shrink. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mem/guest_mem.h"

#define PAGE 4096u
#define SIZE (16u * PAGE)

static int memory_file(uint64_t size)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    return fd;
}

static void test_translation(void **state)
{
    (void)state;
    int fd = memory_file(3 * SIZE);
    struct or_guest_mem *mem = or_guest_mem_create(NULL);
    assert_int_equal(or_guest_mem_add(mem, 0, 0x10000000, SIZE, fd, 0), 0);
    assert_int_equal(or_guest_mem_add(mem, SIZE, 0x50000000, SIZE, fd, 2 * SIZE), 0);
    uint8_t *a = or_guest_user(mem, 0x10000000, SIZE), *b = or_guest_user(mem, 0x50000000, SIZE);
    assert_non_null(a);
    assert_non_null(b);
    assert_ptr_equal(or_guest_user(mem, 0x10000000 + SIZE - 1, 1), a + SIZE - 1);
    assert_null(or_guest_user(mem, 0x10000000 + SIZE - 1, 2));
    assert_null(or_guest_user(mem, 0x10000000 - 1, 1));
    assert_null(or_guest_user(mem, 0x10000000, SIZE + 1));
    assert_null(or_guest_user(mem, 0x10000000, ~0ull));
    uint64_t size = 100;
    assert_ptr_equal(or_guest_phys(mem, SIZE - 40, &size), a + SIZE - 40);
    assert_int_equal(size, 40);
    size = 60;
    assert_ptr_equal(or_guest_phys(mem, SIZE, &size), b);
    assert_int_equal(size, 60);
    size = ~0ull;
    assert_non_null(or_guest_phys(mem, 2 * SIZE - 1, &size));
    assert_int_equal(size, 1);
    assert_null(or_guest_phys(mem, 2 * SIZE, &size));
    assert_null(or_guest_phys(mem, ~0ull, &size));
    /* Both are the file. */
    char seen[4];
    or_guest_write(mem, b + 5, "abc", 3);
    uint16_t index = 0x1234;
    or_guest_write(mem, a + 2, &index, sizeof(index));
    assert_int_equal(pread(fd, seen, 3, 2 * SIZE + 5), 3);
    assert_memory_equal(seen, "abc", 3);
    assert_int_equal(pread(fd, &index, 2, 2), 2);
    assert_int_equal(index, 0x1234);
    or_guest_mem_unref(mem);
    close(fd);
}

static void test_what_is_refused(void **state)
{
    (void)state;
    int fd = memory_file(SIZE), pipes[2];
    assert_int_equal(pipe(pipes), 0);
    struct or_guest_mem *mem = or_guest_mem_create(NULL);
    assert_int_equal(or_guest_mem_add(mem, PAGE, 0x10000000, PAGE, fd, 0), 0);
    assert_int_equal(or_guest_mem_add(mem, PAGE, 0x20000000, PAGE, fd, 0), -EEXIST);
    assert_int_equal(or_guest_mem_add(mem, 0, 0x20000000, PAGE + 1, fd, 0), -EEXIST);
    assert_int_equal(or_guest_mem_add(mem, 0x900000, 0x10000fff, PAGE, fd, 0), -EEXIST);
    assert_int_equal(or_guest_mem_add(mem, 0x900000, 0x20000000, 0, fd, 0), -EINVAL);
    assert_int_equal(or_guest_mem_add(mem, ~0ull - PAGE, 0x20000000, 2 * PAGE, fd, 0), -EINVAL);
    assert_int_equal(or_guest_mem_add(mem, 0x900000, ~0ull - PAGE, 2 * PAGE, fd, 0), -EINVAL);
    assert_int_equal(or_guest_mem_add(mem, 0x900000, 0x20000000, PAGE, fd, ~0ull), -EINVAL);
    assert_int_equal(or_guest_mem_add(mem, 0x900000, 0x20000000, PAGE, fd, SIZE), -ERANGE);
    assert_int_equal(or_guest_mem_add(mem, 0x900000, 0x20000000, SIZE + 1, fd, 0), -ERANGE);
    assert_int_equal(or_guest_mem_add(mem, 0x900000, 0x20000000, PAGE, pipes[0], 0), -EINVAL);
    assert_int_equal(or_guest_mem_add(mem, 0x900000, 0x20000000, PAGE, -1, 0), -EBADF);
    for (uint32_t i = 1; i < OR_GUEST_REGIONS_MAX; i++)
        assert_int_equal(or_guest_mem_add(mem, i * 0x100000, 0x20000000 + i * PAGE, PAGE, fd, 0), 0);
    assert_int_equal(or_guest_mem_add(mem, 0x90000000, 0x90000000, PAGE, fd, 0), -E2BIG);
    assert_int_equal(or_guest_mem_remove(mem, PAGE, 0x10000000, PAGE + 1), -ENOENT);
    assert_int_equal(or_guest_mem_remove(mem, PAGE, 0x10000000, PAGE), 0);
    assert_int_equal(or_guest_mem_remove(mem, PAGE, 0x10000000, PAGE), -ENOENT);
    or_guest_mem_unref(mem);
    close(fd);
    close(pipes[0]);
    close(pipes[1]);
}

static void test_maps_share_mappings(void **state)
{
    (void)state;
    int fd = memory_file(SIZE);
    struct or_guest_mem *first = or_guest_mem_create(NULL);
    assert_int_equal(or_guest_mem_add(first, 0, 0x10000000, PAGE, fd, 0), 0);
    struct or_guest_mem *second = or_guest_mem_create(first);
    assert_int_equal(or_guest_mem_add(second, PAGE, 0x20000000, PAGE, fd, PAGE), 0);
    uint8_t *a = or_guest_user(first, 0x10000000, 1);
    assert_ptr_equal(or_guest_user(second, 0x10000000, 1), a);
    assert_null(or_guest_user(first, 0x20000000, 1));
    or_guest_mem_unref(first);
    or_guest_write(second, a, "x", 1);
    or_guest_mem_ref(second);
    or_guest_mem_unref(second);
    or_guest_write(second, a, "y", 1);
    or_guest_mem_unref(second);
    or_guest_mem_unref(NULL);
    close(fd);
}

static void test_an_offset_within_a_page(void **state)
{
    (void)state;
    int fd = memory_file(SIZE), err;
    assert_int_equal(pwrite(fd, "hello", 5, PAGE + 64), 5);
    struct or_guest_mapping *m = or_guest_map(fd, PAGE + 64, 128, &err);
    assert_non_null(m);
    assert_memory_equal(or_guest_mapping_data(m), "hello", 5);
    or_guest_unmap(m);
    close(fd);
}

static void test_blank_memory(void **state)
{
    (void)state;
    int fd = memory_file(4 << 20);
    struct or_guest_mem *mem = or_guest_mem_create(NULL);
    assert_int_equal(or_guest_mem_add(mem, 2 << 20, 0x20000000, 2 << 20, fd, 2 << 20), 0);
    assert_int_equal(or_guest_mem_add(mem, 0, 0x10000000, 2 << 20, fd, 0), 0);
    assert_int_equal(pwrite(fd, "x", 1, 3 << 20), 1);
    assert_true(or_guest_mem_blank(mem));
    assert_int_equal(pwrite(fd, "x", 1, (1 << 20) - 1), 1);
    assert_false(or_guest_mem_blank(mem));
    /* A map whose last region went holds nothing, and what it held is not looked at any more. */
    assert_int_equal(or_guest_mem_remove(mem, 2 << 20, 0x20000000, 2 << 20), 0);
    assert_int_equal(or_guest_mem_remove(mem, 0, 0x10000000, 2 << 20), 0);
    assert_true(or_guest_mem_blank(mem));
    or_guest_mem_unref(mem);
    close(fd);
}

static void test_a_file_that_shrinks_reads_as_zeroes(void **state)
{
    (void)state;
    int fd = memory_file(SIZE), other = memory_file(SIZE), err;
    struct or_guest_mem *mem = or_guest_mem_create(NULL);
    assert_int_equal(or_guest_mem_add(mem, 0, 0x10000000, SIZE, fd, 0), 0);
    struct or_guest_mapping *well = or_guest_map(other, 0, SIZE, &err);
    volatile uint8_t *a = or_guest_user(mem, 0x10000000, SIZE);
    memset((void *)(uintptr_t)a, 0x5a, SIZE);
    assert_false(or_guest_mem_vanished(mem));
    assert_int_equal(ftruncate(fd, 8 * PAGE), 0);
    assert_false(or_guest_mem_vanished(mem));
    assert_int_equal(a[8 * PAGE - 1], 0x5a);
    assert_false(or_guest_mem_vanished(mem));
    assert_int_equal(a[9 * PAGE], 0);
    assert_true(or_guest_mem_vanished(mem));
    /* Writing works, too; below the new end everything is as before; and it may shrink again. */
    or_guest_write(mem, (void *)(uintptr_t)(a + SIZE - 4), "abcd", 4);
    assert_int_equal(a[SIZE - 1], 'd');
    assert_int_equal(a[8 * PAGE - 1], 0x5a);
    assert_int_equal(ftruncate(fd, PAGE), 0);
    assert_int_equal(a[PAGE], 0);
    assert_int_equal(a[0], 0x5a);
    assert_false(or_guest_mapping_vanished(well));
    or_guest_unmap(well);
    or_guest_mem_unref(mem);
    close(fd);
    close(other);
}

static void test_huge_pages(void **state)
{
    (void)state;
    const uint64_t huge = 2 << 20;
    int fd = memfd_create("guest", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB), err;
    if (fd < 0 || fallocate(fd, 0, 0, (off_t)(2 * huge)) < 0) {
        if (fd >= 0)
            close(fd);
        print_message("skipped: needs two free huge pages (/proc/sys/vm/nr_hugepages)\n");
        skip();
    }
    /* A region that begins and ends inside huge pages; its file loses the second one. */
    struct or_guest_mapping *m = or_guest_map(fd, PAGE, huge, &err);
    assert_non_null(m);
    volatile uint8_t *a = or_guest_mapping_data(m);
    a[0] = a[huge - 1] = 1;
    assert_int_equal(ftruncate(fd, (off_t)huge), 0);
    assert_int_equal(a[huge - 1], 0);
    assert_true(or_guest_mapping_vanished(m));
    assert_int_equal(a[0], 1);
    or_guest_unmap(m);
    close(fd);
}

static void test_other_faults_are_not_swallowed(void **state)
{
    (void)state;
    int fd = memory_file(SIZE), err, status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit none = {0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGBUS, SIG_DFL); /* the test framework has a handler of its own */
        struct or_guest_mapping *ours = or_guest_map(fd, 0, SIZE, &err);
        volatile uint8_t *foreign = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (ours && ftruncate(fd, 0) == 0) {
            *(volatile uint8_t *)or_guest_mapping_data(ours) = 1;
            foreign[0] = 1;
        }
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGBUS);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_translation),         cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_maps_share_mappings), cmocka_unit_test(test_an_offset_within_a_page),
        cmocka_unit_test(test_blank_memory),        cmocka_unit_test(test_a_file_that_shrinks_reads_as_zeroes),
        cmocka_unit_test(test_huge_pages),          cmocka_unit_test(test_other_faults_are_not_swallowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
