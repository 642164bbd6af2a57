#include "layers/map.h"

#include <stdlib.h>
#include <sys/mman.h>

#define WORD 64u

struct or_layer_map *or_layer_map_new(uint64_t size, uint64_t content)
{
    struct or_layer_map *map = calloc(1, sizeof *map);
    if (!map)
        return NULL;
    uint64_t bytes = or_overlay_map_bytes(size);
    *map = (struct or_layer_map){.size = size,
                                 .content = content,
                                 .clusters = or_overlay_clusters(size),
                                 .data_offset = or_overlay_data_offset(size),
                                 .bytes = bytes,
                                 .pages = (uint32_t)(bytes / OR_OVERLAY_PAGE)};
    map->dirty = calloc((map->pages + WORD - 1) / WORD, sizeof *map->dirty);
    /* Memory of its own, so that it costs only what the map has. */
    map->bits = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map->bits == MAP_FAILED)
        map->bits = NULL;
    if (map->dirty && map->bits)
        return map;
    or_layer_map_free(map);
    return NULL;
}

void or_layer_map_free(struct or_layer_map *map)
{
    if (!map)
        return;
    if (map->bits)
        munmap(map->bits, map->bytes);
    free(map->dirty);
    free(map);
}

uint64_t or_layer_map_content(const struct or_layer_map *map)
{
    return map->content;
}

void or_layer_map_rename(struct or_layer_map *map, uint64_t content)
{
    map->content = content;
}

uint64_t or_layer_map_size(const struct or_layer_map *map)
{
    return map->size;
}

static uint32_t here_in(uint64_t bits)
{
    return (uint32_t)__builtin_popcountll(bits & UINT64_C(0x5555555555555555));
}

static uint32_t zeroes_in(uint64_t bits)
{
    return (uint32_t)__builtin_popcountll(bits & UINT64_C(0xaaaaaaaaaaaaaaaa));
}

bool or_layer_map_take_stock(struct or_layer_map *map)
{
    const uint64_t *words = (const uint64_t *)(const void *)map->bits;
    for (uint64_t i = 0; i < map->bytes / 8; i++) {
        if (words[i] & words[i] >> 1 & UINT64_C(0x5555555555555555))
            return false;
        map->here += here_in(words[i]);
        map->zeroes += zeroes_in(words[i]);
    }
    /* Behind the last cluster is nothing. */
    for (uint64_t cluster = map->clusters; cluster < map->bytes * 4; cluster++)
        if (or_layer_map_get(map, cluster) != OR_LAYER_BELOW)
            return false;
    return true;
}

uint64_t or_layer_map_run(const struct or_layer_map *map, uint64_t first, uint64_t most)
{
    enum or_layer_entry entry = or_layer_map_get(map, first);
    uint8_t four = (uint8_t)(entry * 0x55);
    uint64_t n = 1;
    while (n < most) {
        uint64_t cluster = first + n;
        if (cluster % 4 == 0 && map->bits[cluster / 4] == four)
            n += 4;
        else if (or_layer_map_get(map, cluster) == entry)
            n++;
        else
            break;
    }
    return n < most ? n : most;
}

static void change(struct or_layer_map *map, uint64_t cluster, uint8_t to)
{
    uint8_t *byte = &map->bits[cluster / 4];
    if (*byte == to)
        return;
    map->here += here_in(to) - (uint64_t)here_in(*byte);
    map->zeroes += zeroes_in(to) - (uint64_t)zeroes_in(*byte);
    *byte = to;
    or_layer_map_mark(map, (uint32_t)(cluster / OR_OVERLAY_PAGE_CLUSTERS), true);
}

void or_layer_map_set(struct or_layer_map *map, uint64_t first, uint64_t count, enum or_layer_entry entry)
{
    assert(entry != OR_LAYER_INVALID && first + count <= map->clusters);
    uint8_t four = (uint8_t)(entry * 0x55);
    for (uint64_t cluster = first, end = first + count; cluster < end;) {
        if (cluster % 4 == 0 && end - cluster >= 4) {
            change(map, cluster, four);
            cluster += 4;
        } else {
            uint32_t shift = cluster % 4 * 2;
            change(map, cluster, (uint8_t)((map->bits[cluster / 4] & ~(3u << shift)) | (uint32_t)entry << shift));
            cluster++;
        }
    }
}

uint32_t or_layer_map_next_dirty(const struct or_layer_map *map, uint32_t page)
{
    while (page < map->pages) {
        uint64_t rest = map->dirty[page / WORD] >> page % WORD;
        if (rest)
            return page + (uint32_t)__builtin_ctzll(rest);
        page = (page / WORD + 1) * WORD;
    }
    return map->pages;
}

bool or_layer_map_is_dirty(const struct or_layer_map *map, uint32_t page)
{
    return map->dirty[page / WORD] >> page % WORD & 1;
}

void or_layer_map_mark(struct or_layer_map *map, uint32_t page, bool dirty)
{
    if (or_layer_map_is_dirty(map, page) == dirty)
        return;
    map->dirty[page / WORD] ^= UINT64_C(1) << page % WORD;
    map->dirty_pages += dirty ? 1 : UINT32_MAX;
}
