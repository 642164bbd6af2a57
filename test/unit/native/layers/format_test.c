/* Overlay files: what is made can be loaded, and what is damaged is refused. */
#include "layers_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <xxhash.h>

static int fresh_file(void)
{
    int fd = memfd_create("layer", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static int formatted(uint64_t size)
{
    int fd = fresh_file();
    assert_int_equal(or_layer_format(fd, size, 77, 0), 0);
    return fd;
}

static void refused(int fd, const char *expected)
{
    int err;
    const char *why;
    assert_null(or_layer_load(fd, &err, &why));
    assert_int_equal(err, -EBADMSG);
    assert_string_equal(why, expected);
    close(fd);
}

static void a_new_overlay_has_nothing(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {512, CLUSTER, 64 * MIB + 512, 100 * GIB, UINT64_C(1) << 43};
    for (uint32_t n = 0; n < sizeof sizes / sizeof *sizes; n++) {
        int err, fd = formatted(sizes[n]);
        const char *why;
        struct or_layer_map *map = or_layer_load(fd, &err, &why);
        assert_non_null(map);
        assert_int_equal(or_layer_map_size(map), sizes[n]);
        assert_int_equal(or_layer_map_content(map), 77);
        assert_int_equal(map->here + map->zeroes, 0);
        assert_int_equal(map->data_offset % MIB, 0);
        struct stat info;
        assert_int_equal(fstat(fd, &info), 0);
        assert_true((uint64_t)info.st_size >= map->data_offset + sizes[n]);
        or_layer_map_free(map);
        close(fd);
    }
}

static void what_the_map_says_is_counted(void **state)
{
    (void)state;
    int err, fd = formatted(64 * MIB);
    const char *why;
    uint8_t entries[] = {0x49, 0x02}; /* here, zeroes, below, here; zeroes */
    assert_int_equal(pwrite(fd, entries, 2, 4096 + 100), 2);
    struct or_layer_map *map = or_layer_load(fd, &err, &why);
    assert_non_null(map);
    assert_int_equal(map->here, 2);
    assert_int_equal(map->zeroes, 2);
    assert_int_equal(or_layer_map_get(map, 400), OR_LAYER_HERE);
    assert_int_equal(or_layer_map_get(map, 404), OR_LAYER_ZEROES);
    or_layer_map_set(map, 398, 9, OR_LAYER_HERE);
    assert_int_equal(map->here, 9);
    assert_int_equal(map->zeroes, 0);
    assert_int_equal(or_layer_map_run(map, 398, 100), 9);
    assert_int_equal(or_layer_map_run(map, 0, 1000), 398);
    or_layer_map_free(map);
    close(fd);
}

static void a_file_is_formatted_once(void **state)
{
    (void)state;
    int fd = formatted(MIB);
    assert_int_equal(or_layer_format(fd, MIB, 78, 0), -EEXIST);
    close(fd);
    fd = fresh_file();
    assert_int_equal(or_layer_format(fd, 0, 78, 0), -EINVAL);
    assert_int_equal(or_layer_format(fd, 1000, 78, 0), -EINVAL);
    assert_int_equal(or_layer_format(fd, MIB, 0, 0), -EINVAL);
    assert_int_equal(or_layer_format(fd, OR_LAYER_SIZE_MAX + 512, 78, 0), -EINVAL);
    close(fd);
}

static void hostile_headers_are_refused(void **state)
{
    (void)state;
    int fd = fresh_file();
    refused(fd, "is too short for a layer");
    fd = fresh_file();
    assert_int_equal(ftruncate(fd, 2 * MIB), 0);
    refused(fd, "is not a layer");

    /* every bit counts */
    for (uint32_t at = 0; at < 4096; at += 37) {
        fd = formatted(MIB);
        uint8_t byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 1u << at % 8;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        refused(fd, at < 8 ? "is not a layer" : "is a layer with a damaged header");
    }
}

/* With a check that is right. */
static int forged(void (*forge)(struct or_overlay_header *header))
{
    int fd = formatted(MIB);
    struct or_overlay_header header;
    or_overlay_encode(&header, MIB, 77, 0);
    forge(&header);
    header.check = XXH3_64bits(&header, offsetof(struct or_overlay_header, check));
    assert_int_equal(pwrite(fd, &header, sizeof header, 0), sizeof header);
    return fd;
}

static void forge_version(struct or_overlay_header *h)
{
    h->version = 2;
}

static void forge_size(struct or_overlay_header *h)
{
    h->size = UINT64_MAX & ~UINT64_C(511);
}

static void forge_size_zero(struct or_overlay_header *h)
{
    h->size = 0;
}

static void forge_larger(struct or_overlay_header *h)
{
    h->size = 2 * MIB;
}

static void forge_data(struct or_overlay_header *h)
{
    h->data_offset = 0;
}

static void forge_cluster(struct or_overlay_header *h)
{
    h->cluster_bytes = 0;
}

static void forge_content(struct or_overlay_header *h)
{
    h->content = 0;
}

static void headers_that_lie_are_refused(void **state)
{
    (void)state;
    refused(forged(forge_version), "is a layer in the format of another version");
    refused(forged(forge_size), "is a layer with a header that cannot be");
    refused(forged(forge_size_zero), "is a layer with a header that cannot be");
    refused(forged(forge_data), "is a layer with a header that cannot be");
    refused(forged(forge_cluster), "is a layer with a header that cannot be");
    refused(forged(forge_content), "is a layer with a header that cannot be");
    refused(forged(forge_larger), "is a layer that was cut short");
}

static void damaged_maps_are_refused(void **state)
{
    (void)state;
    uint8_t invalid = 0x30, behind = 0x04;
    int fd = formatted(64 * MIB + CLUSTER);
    assert_int_equal(pwrite(fd, &invalid, 1, 4096 + 4000), 1);
    refused(fd, "is a layer with a damaged map");
    fd = formatted(64 * MIB + CLUSTER); /* whose last entry is the first of a byte */
    assert_int_equal(pwrite(fd, &behind, 1, 4096 + 4096), 1);
    refused(fd, "is a layer with a damaged map");
    fd = formatted(MIB);
    assert_int_equal(ftruncate(fd, MIB + 4096), 0);
    refused(fd, "is a layer that was cut short");
}

static void a_layer_is_created_whole_and_once(void **state)
{
    (void)state;
    char folder[] = "/tmp/or-layers-XXXXXX", path[64], fresh[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a", folder);
    snprintf(fresh, sizeof fresh, "%s/a.new", folder);
    /* what a crash left behind is no obstacle */
    int fd = open(fresh, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    assert_int_equal(or_layer_create(path, MIB, 5, 4), 0);
    assert_int_equal(access(fresh, F_OK), -1);
    assert_int_equal(or_layer_create(path, MIB, 5, 4), 0);
    assert_int_equal(or_layer_create(path, MIB, 6, 4), -EEXIST);
    assert_int_equal(or_layer_create(path, 2 * MIB, 5, 4), -EEXIST);
    assert_int_equal(or_layer_create(path, MIB, 5, 0), -EEXIST);
    snprintf(fresh, sizeof fresh, "%s/none/a", folder);
    assert_int_equal(or_layer_create(fresh, MIB, 5, 0), -ENOENT);
    unlink(path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_overlay_has_nothing),         cmocka_unit_test(what_the_map_says_is_counted),
        cmocka_unit_test(a_file_is_formatted_once),          cmocka_unit_test(hostile_headers_are_refused),
        cmocka_unit_test(headers_that_lie_are_refused),      cmocka_unit_test(damaged_maps_are_refused),
        cmocka_unit_test(a_layer_is_created_whole_and_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
