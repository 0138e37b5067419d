/* The host of a simulated process: its clocks, its random numbers and its waits, in place of libc's.
 *
 * Time stands still while the program computes. When it waits, which its one thread does in epoll and
 * nowhere else, the time that it would wait passes at once. Random numbers are drawn from the seed. So a
 * process does the same whenever it is run with the same seed, without a line of it knowing.
 *
 * Without ESPALIER_SIM_SEED in the environment every call goes to the kernel.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)
/* Both clocks begin somewhere else than at zero, as clocks do. */
#define MONOTONIC_START (INT64_C(100000) * SECOND)
#define WALL_START (INT64_C(1800000000) * SECOND)
/* How long the wall clock keeps a step that somebody gave it, and how far it is off at most. */
#define WALL_STEP (INT64_C(15) * SECOND)
#define WALL_OFF (INT64_C(40) * SECOND)

/* Seconds of real time after which a simulation has hung. */
#define REAL_LIMIT 240

static int known, simulated;
static uint64_t seed, drawn;
static int64_t now;

static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static int on(void)
{
    if (!known) {
        const char *text = getenv("ESPALIER_SIM_SEED");
        simulated = text != NULL;
        if (simulated) {
            seed = mix(strtoull(text, NULL, 10));
            /* A program that neither waits nor ends makes no simulated time pass. */
            alarm(REAL_LIMIT);
        }
        known = 1;
    }
    return simulated;
}

/* In one seed of three the wall clock is stepped, back and forth. */
static int64_t wall(void)
{
    int64_t off = 0;
    if (seed % 3 == 0) {
        uint64_t chance = mix(seed ^ (uint64_t)(now / WALL_STEP));
        off = (int64_t)(chance % (uint64_t)(2 * WALL_OFF)) - WALL_OFF;
    }
    return WALL_START + now + off;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int64_t at;
    if (!on())
        return (int)syscall(SYS_clock_gettime, clock, time);
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        at = wall();
        break;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_BOOTTIME:
        at = MONOTONIC_START + now;
        break;
    default:
        return (int)syscall(SYS_clock_gettime, clock, time);
    }
    time->tv_sec = at / SECOND;
    time->tv_nsec = at % SECOND;
    return 0;
}

ssize_t getrandom(void *buffer, size_t length, unsigned int flags)
{
    unsigned char *bytes = buffer;
    if (!on())
        return syscall(SYS_getrandom, buffer, length, flags);
    for (size_t at = 0; at < length; at += 8) {
        uint64_t word = mix(seed + ++drawn);
        memcpy(bytes + at, &word, length - at < 8 ? length - at : 8);
    }
    return (ssize_t)length;
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
    static const char stuck[] = "the simulation waits for nothing: no timer is set\n";
    int ready = (int)syscall(SYS_epoll_pwait, epoll, events, most, on() ? 0 : timeout, NULL, 8);
    if (!on() || ready != 0)
        return ready;
    if (timeout < 0) {
        if (write(STDERR_FILENO, stuck, sizeof stuck - 1) < 0)
            _exit(71);
        _exit(70);
    }
    now += timeout * INT64_C(1000000);
    return 0;
}

/* What a simulated process wrote is kept: it is the machine that is never cut off here. */
int fsync(int file)
{
    return on() ? 0 : (int)syscall(SYS_fsync, file);
}

int fdatasync(int file)
{
    return on() ? 0 : (int)syscall(SYS_fdatasync, file);
}
