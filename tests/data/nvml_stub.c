/* Stands in for the vendor's library, with as much of it as an agent asks. Built by the tests.
 * STUB_GPUS: how many boards. STUB_LOST: the index of one that fell off the bus. STUB_HANGS,
 * STUB_CRASHES: at that index. STUB_NOISE: prints where answers are expected. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long long u64;
static int setting(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; if (getenv("STUB_NOISE")) { printf("{noise\n"); fflush(stdout); } return setting("STUB_INIT", 0); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : code == 9 ? "Driver Not Loaded" : "Unknown Error"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = setting("STUB_GPUS", 8); return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **board) {
    if ((int)index == setting("STUB_HANGS", -1)) for (;;) sleep(1000);
    if ((int)index == setting("STUB_CRASHES", -1)) *(volatile int *)0 = 1;
    if ((int)index == setting("STUB_UNREACHABLE", -1)) return 15;
    *board = (void *)(size_t)(index + 1);
    return 0;
}
static int at(void *board) { return (int)(size_t)board - 1; }
static int lost(void *board) { return at(board) == setting("STUB_LOST", -1) ? 15 : 0; }

int nvmlDeviceGetName(void *board, char *text, unsigned size) { snprintf(text, size, "Stub %d", at(board)); return 0; }
int nvmlDeviceGetUUID(void *board, char *text, unsigned size) { snprintf(text, size, "GPU-%d", at(board)); return 0; }
int nvmlDeviceGetUtilizationRates(void *board, unsigned *rates) { rates[0] = 40 + at(board); rates[1] = 7; return lost(board); }
int nvmlDeviceGetMemoryInfo(void *board, u64 *memory) { memory[0] = 80ULL << 30; memory[1] = 60ULL << 30; memory[2] = 20ULL << 30; return lost(board); }
int nvmlDeviceGetTemperature(void *board, unsigned sensor, unsigned *heat) { (void)sensor; *heat = 50 + at(board); return lost(board); }
int nvmlDeviceGetPowerUsage(void *board, unsigned *milliwatts) { *milliwatts = 250500; return lost(board); }
int nvmlDeviceGetTotalEccErrors(void *board, unsigned kind, unsigned counter, u64 *count) {
    if (at(board) == 0) return 3; /* not supported */
    *count = kind == 1 && counter == 0 && at(board) == 2 ? 12 : 0;
    return 0;
}
int nvmlDeviceGetRemappedRows(void *board, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    *corrected = *uncorrected = *pending = 0; *failed = at(board) == 3; return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *board, unsigned *count, void *found) {
    unsigned there = at(board) == 1 ? 2 : 0, room = *count;
    *count = there;
    if (room < there) return 7;
    if (there && found) memset(found, 0, there * 24);
    return 0;
}
