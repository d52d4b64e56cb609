/* Slows the monotonic clock of the process that preloads it: under callgrind a program runs some fifty times slower, and
 * what a filter does by the clock (merging every 20 ms) would be charged to fifty times fewer requests than in service.
 * BELLWETHER_SLOW_CLOCK names a file of 16 bytes: the divisor, and where the clock stood when it came into force (0: to be
 * filled in here). A divisor of 0 leaves the clock alone, so that a start takes no longer than it must. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct shared {
  uint64_t divisor, base;
};
static struct shared *shared;

__attribute__((constructor)) static void attach(void) {
  const char *path = getenv("BELLWETHER_SLOW_CLOCK");
  int file = path ? open(path, O_RDWR) : -1;
  if (file < 0) return;
  void *memory = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory != MAP_FAILED) shared = memory;
  close(file);
}

int clock_gettime(clockid_t id, struct timespec *time) {
  int failed = syscall(SYS_clock_gettime, id, time);
  if (failed || !shared || (id != CLOCK_MONOTONIC && id != CLOCK_MONOTONIC_COARSE)) return failed;
  uint64_t divisor = __atomic_load_n(&shared->divisor, __ATOMIC_ACQUIRE);
  if (divisor < 2) return 0;
  uint64_t now = time->tv_sec * 1000000000ull + time->tv_nsec, base = 0;
  if (__atomic_compare_exchange_n(&shared->base, &base, now, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) base = now;
  if (now > base) now = base + (now - base) / divisor;
  time->tv_sec = now / 1000000000ull;
  time->tv_nsec = now % 1000000000ull;
  return 0;
}
