/* The command line of a simulator (struct subject); README.md explains how to use it. */
#include "runner.h"

#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct options {
    struct run run;
    bool one, trace, plants, quiet;
};

static void usage(FILE *out)
{
    const char *name = subject.name;
    fprintf(out,
            "usage: %s [--seeds N] [--start S] [--jobs J] [--quiet]   run seeds S .. S+N-1 in J processes\n"
            "       %s --seed S [--trace] [--plant NAME]             run one seed, print its hash (and events)\n"
            "       %s --plants [--jobs J]                           prove that every planted bug is found\n",
            name, name, name);
}

static uint64_t number(const char *text, const char *option)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    if (*end || end == text) {
        fprintf(stderr, "%s: --%s needs a number, not '%s'\n", subject.name, option, text);
        exit(2);
    }
    return value;
}

static uint32_t plant_by_name(const char *name)
{
    for (uint32_t plant = 1; plant < subject.plant_count; plant++)
        if (strcmp(subject.plant_name(plant), name) == 0)
            return plant;
    fprintf(stderr, "%s: no plant '%s'; there are:\n", subject.name, name);
    for (uint32_t plant = 1; plant < subject.plant_count; plant++)
        fprintf(stderr, "  %s\n", subject.plant_name(plant));
    exit(2);
}

static struct options parse(int argc, char **argv)
{
    static const struct option long_options[] = {
        {"seeds", required_argument, NULL, 'n'}, {"start", required_argument, NULL, 's'},
        {"jobs", required_argument, NULL, 'j'},  {"seed", required_argument, NULL, '1'},
        {"trace", no_argument, NULL, 't'},       {"plants", no_argument, NULL, 'p'},
        {"plant", required_argument, NULL, 'P'}, {"quiet", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},        {0},
    };
    struct options o = {.run = {.first = 1, .count = 1000, .jobs = 1, .failures_max = 20, .report_failures = true}};
    int c;
    while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        switch (c) {
        case 'n':
            o.run.count = number(optarg, "seeds");
            break;
        case 's':
            o.run.first = number(optarg, "start");
            break;
        case 'j':
            o.run.jobs = (uint32_t)number(optarg, "jobs");
            break;
        case '1':
            o.run.first = number(optarg, "seed");
            o.one = true;
            break;
        case 't':
            o.trace = true;
            break;
        case 'p':
            o.plants = true;
            break;
        case 'P':
            o.run.plant = plant_by_name(optarg);
            break;
        case 'q':
            o.quiet = true;
            break;
        case 'h':
            usage(stdout);
            exit(0);
        default:
            usage(stderr);
            exit(2);
        }
    }
    if (optind != argc || o.run.jobs == 0 || o.run.jobs > 256 || o.run.count == 0) {
        usage(stderr);
        exit(2);
    }
    o.run.progress = !o.quiet;
    return o;
}

/* Shows that the troubles really happened; false when one never did. */
static bool report_coverage(const struct outcome *outcome, const struct options *o)
{
    bool complete = true;
    for (uint32_t c = 0; c < subject.coverage_count; c++) {
        if (!o->quiet)
            printf("  %-48s %14" PRIu64 "\n", subject.coverage_names[c], outcome->coverage[c]);
        if (outcome->coverage[c] == 0 && o->run.count >= subject.coverage_seeds) {
            printf("FAILED coverage: '%s' never occurred\n", subject.coverage_names[c]);
            complete = false;
        }
    }
    return complete;
}

static int run_many(const struct options *o)
{
    struct outcome outcome;
    run_seeds(&o->run, &outcome);
    bool complete = report_coverage(&outcome, o);
    if (outcome.failed >= o->run.failures_max)
        printf("sim: gave up after %" PRIu64 " failures\n", outcome.failed);
    printf("sim: %" PRIu64 " passed, %" PRIu64 " failed\n", outcome.passed, outcome.failed);
    return outcome.failed == 0 && complete ? 0 : 1;
}

/* A plant passes when the simulator fails with it. */
static int run_plants(const struct options *o)
{
    uint32_t missed = 0;
    for (uint32_t plant = 1; plant < subject.plant_count; plant++) {
        struct run run = o->run;
        struct outcome outcome;
        run.count = subject.plant_seeds;
        run.failures_max = 1;
        run.progress = run.report_failures = false;
        run.plant = plant;
        run_seeds(&run, &outcome);
        const char *name = subject.plant_name(plant);
        if (outcome.failed > 0) {
            printf("%-34s caught by '%s', seed %" PRIu64 "\n    %s\n", name, outcome.first.check, outcome.first.seed,
                   outcome.first.text);
        } else {
            printf("%-34s NOT CAUGHT in %" PRIu64 " seeds\n", name, subject.plant_seeds);
            missed++;
        }
        fflush(stdout);
    }
    printf("sim: %u passed, %u failed\n", subject.plant_count - 1 - missed, missed);
    return missed == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    /* Disks are large and mostly untouched: let them come from the kernel, which has zeroes for nothing. */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    mallopt(M_TRIM_THRESHOLD, 1 << 28); /* and what a seed frees, the next one takes */
    struct options o = parse(argc, argv);
    if (o.plants)
        return run_plants(&o);
    if (!o.one)
        return run_many(&o);
    uint64_t hash = run_one(o.run.first, o.run.plant, o.trace);
    printf("seed %" PRIu64 ": hash %016" PRIx64 "\nsim: 1 passed, 0 failed\n", o.run.first, hash);
    return 0;
}
