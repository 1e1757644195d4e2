/* Loaded before the C library into a server whose wall clock is to be wrong: see clock.rs, which writes what is read here.
   The monotonic clock stays as it is, as it does where an administrator sets the time. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* From `real` on, in nanoseconds since 1970, the clock tells `told` and goes `ppm` millionths as fast as it should. */
struct setting {
    int64_t real, told, ppm;
};

struct shared {
    volatile int64_t current;
    volatile struct setting settings[2];
};

static const struct shared *shared;

__attribute__((constructor)) static void load(void) {
    const char *path = getenv("TESTKIT_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof(struct shared), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) shared = mapped;
}

static int64_t now(void) {
    struct timespec real;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
    int64_t ns = real.tv_sec * 1000000000LL + real.tv_nsec;
    if (!shared) return ns;
    const volatile struct setting *setting = &shared->settings[shared->current & 1];
    /* In two steps, as days of nanoseconds times a million would not fit. */
    int64_t passed = ns - setting->real;
    return setting->told + passed / 1000000 * setting->ppm + passed % 1000000 * setting->ppm / 1000000;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) return syscall(SYS_clock_gettime, clock, time);
    int64_t ns = now();
    time->tv_sec = ns / 1000000000;
    time->tv_nsec = ns % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    int64_t ns = now();
    time->tv_sec = ns / 1000000000;
    time->tv_usec = ns % 1000000000 / 1000;
    return 0;
}

time_t time(time_t *told) {
    time_t seconds = now() / 1000000000;
    if (told) *told = seconds;
    return seconds;
}
