/* What the programs here have in common. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "qkv.h"

static int failures;

static inline void expect(bool holds, const char *what)
{
    if (!holds) {
        printf("FAILED: %s\n", what);
        failures++;
    }
}

static inline void succeeds(int code, const qkv_error *error, const char *what)
{
    if (code != QKV_OK) {
        printf("FAILED: %s: %s: %s, expected %u, got %u\n", what, qkv_error_text(code), error->what,
               (unsigned)error->expected, (unsigned)error->got);
        failures++;
    }
}

/* That a call was refused so, and the `n` floats of `out` are 77 as before. */
static inline void refused(int code, int as, const qkv_error *error, const char *what, const float *out, size_t n)
{
    if (code != as || error->code != as || strcmp(error->what, what) != 0) {
        printf("FAILED: wanted \"%s\" for %s, got \"%s\" for %s\n", qkv_error_text(as), what,
               qkv_error_text(code), error->what);
        failures++;
    }
    for (size_t i = 0; i < n; i++)
        if (out[i] != 77.0f) {
            printf("FAILED: a refused call wrote: %s\n", what);
            failures++;
            return;
        }
}

/* Multiples of 1/8 of -1 to 1, which every dtype holds exactly. */
static inline void numbers(float *x, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 747796405u + 2891336453u;
        x[i] = (float)((seed >> 20) % 17) / 8 - 1;
    }
}

static inline bool close_to(const float *got, const float *wanted, size_t n, float bound)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - wanted[i]) <= bound) && got[i] != wanted[i])
            return false;
    return true;
}

static inline int result(const char *program)
{
    if (failures == 0)
        printf("%s: all right\n", program);
    return failures != 0;
}
