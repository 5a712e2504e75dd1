// Prints the 64 bytes that ldtilecfg reads, on any x86-64 Linux machine.
//
// The function init() has the form of ggml's tile configuration: a local struct, filled in a loop, loaded by the intrinsic.
// A processor with AMX loads it, and the program stores it back.
// Any other raises SIGILL at the instruction: the handler decodes the operand's address and reads the bytes there.
#include <immintrin.h>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

struct tile_config {
    uint8_t palette_id = 0;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {0};
    uint16_t colsb[16] = {0};
    uint8_t rows[16] = {0};
};

__attribute__((noinline)) static void init(int n) {
    tile_config tc;
    tc.palette_id = 1;
    for (int i = 0; i < 8; i++) {
        tc.colsb[i] = (uint16_t)(64 - n * i);
        tc.rows[i] = (uint8_t)(16 - i);
    }
    _tile_loadconfig(&tc);
}

static void print_and_exit(const uint8_t *bytes) {
    for (int i = 0; i < 64; i++) printf("%02x", bytes[i]);
    printf("\n");
    fflush(stdout);
    _Exit(0);
}

static void on_sigill(int, siginfo_t *, void *context) {
    const greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *at = (const uint8_t *)g[REG_RIP];
    const int registers[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                             REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    if (at[0] != 0xc4 || (at[1] & 0x1f) != 2 || at[3] != 0x49) _Exit(3);  // VEX.128.0F38.W0 49: ldtilecfg
    const int extension = (at[1] & 0x20) ? 0 : 8, mod = at[4] >> 6;
    int base = at[4] & 7;
    const uint8_t *rest = at + 5;
    if (base == 4) {  // a SIB byte follows; an index register is not expected
        if (((*rest >> 3) & 7) != 4) _Exit(4);
        base = *rest++ & 7;
    }
    if (mod == 3 || (mod == 0 && base == 5)) _Exit(5);
    int32_t offset = 0;
    if (mod == 1) offset = (int8_t)*rest;
    if (mod == 2) memcpy(&offset, rest, 4);
    print_and_exit((const uint8_t *)g[registers[base + extension]] + offset);
}

int main(int count, char **) {
    struct sigaction action = {};
    action.sa_sigaction = on_sigill;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, nullptr);
    init(count);
    alignas(64) uint8_t stored[64];
    _tile_storeconfig(stored);
    print_and_exit(stored);
}
